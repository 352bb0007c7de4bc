"""The flags of one run's data and network."""

from __future__ import annotations

from tem_studies.flag_row import FlagRow

NETWORK_FLAGS: tuple[FlagRow, ...] = (
    FlagRow(
        "datasource",
        str,
        "mnist",
        "Images: digits, mnist, fashion-mnist, cifar-10 or cifar-100. Examples of your "
        "own, with their classes: npz. Words: "
        "wikitext-2, or tokens, any text. Characters: text, any file. Ratings: "
        "movielens-20m, movielens-1m or movielens-small.",
    ),
    FlagRow(
        "path_data",
        str,
        None,
        "Directory that holds MNIST/, Fashion-MNIST/, cifar-10-batches-py/ or "
        "cifar-100-python/. Without it, or if the folder is not in it, the data "
        "comes from tensorflow-datasets. For words: the directory that holds "
        "wikitext-2/wiki.{train,valid,test}.tokens, or {train,valid,test}.tokens. For "
        "characters: a file of UTF-8, or a directory with input.txt. "
        "For npz: a file with x_train, y_train, x_test, y_test and, if you like, "
        "x_validation, y_validation. "
        "For ratings: ml-20m/, ml-1m/ or ml-latest-small/ with ratings.csv or "
        "ratings.dat; or tensorflow-datasets.",
    ),
    FlagRow(
        "arch",
        str,
        "simple-cnn",
        "Network of images: simple-cnn, resnet-8, resnet-18, senet-18 or googlenet; "
        "of words: lstm; of characters: gpt, which with no other flags is trained as "
        "docs/workloads.md says; of ratings: neumf; or logistic-regression. Your own, "
        "of images and npz: module:function, which makes it of (input_shape, classes, "
        "seed) and is found in the working directory or installed.",
    ),
    FlagRow(
        "target_sparsity",
        float,
        0.9,
        "Share of the network's entries, in [0, 1), pruned before training. Not "
        "given, 0 for all networks but simple-cnn and resnet-8. Several values "
        "make a study.",
        takes_several=True,
    ),
    FlagRow(
        "augmentation",
        str,
        "none",
        "Of training images: none, crop-flip (32 of 40 pixels, mirrored or not) or "
        "crop-flip-rotate (and by at most 15 degrees).",
    ),
    FlagRow("lstm_layers", int, 3, "Of lstm: layers."),
    FlagRow("lstm_units", int, 650, "Of lstm: width of embedding and layers."),
    FlagRow(
        "tied",
        bool,
        True,
        "Of lstm: whether the embedding is the decoder's matrix.",
    ),
    FlagRow(
        "dropout",
        float,
        None,
        "Of lstm, gpt and neumf: share of entries, in [0, 1), set to 0 in training. "
        "Without it: 0.4 of lstm, 0 of gpt, 0.5 of neumf.",
    ),
    FlagRow("gpt_layers", int, None, "Of gpt: layers. Not given: 4."),
    FlagRow(
        "gpt_heads",
        int,
        None,
        "Of gpt: heads of each attention; divide gpt_features. Not given: 4.",
    ),
    FlagRow("gpt_features", int, None, "Of gpt: width. Not given: 128."),
    FlagRow(
        "context",
        int,
        None,
        "Of gpt: most characters that the next one is predicted from. Not given: 64.",
    ),
    FlagRow(
        "sample_characters",
        int,
        None,
        "Of gpt: characters that it writes after training; 0: none. Not given: 500.",
    ),
    FlagRow(
        "prompt",
        str,
        None,
        "Of gpt: what these characters follow. Not given: the end of a line.",
    ),
)
