"""The rules that keep the rooms apart: who imports whom, and what no file may hold."""

import ast
import inspect
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

import tem_tf

ROOT = pathlib.Path(__file__).parents[1]

# The plugin from the bottom to the top: a module imports from lower rows only, so
# those of one row, as compressors, memory and wire, never import one another.
LAYERS = [
    {"durable_files"},
    {
        *("_internals", "capacity", "cluster", "fixed_sums", "heartbeat", "layout"),
        *(
            "masks",
            "native",
            "nonfinite",
            "settings",
            "sparse_gradient",
            "start_limit",
            "version",
        ),
    },
    {"_collective_internals"},
    {
        *(
            "empty_batches",
            "forwarding_optimizer",
            "gathers",
            "instance_keys",
            "replica_state",
        ),
        *(
            "_fit_internals",
            "event_files",
            "rendezvous",
            "wire",
        ),
    },
    {"compressors", "cross_device_ops", "loss_scale", "memory", "places", "roll_call"},
    {"averages", "local_beginning", "batch_logs", "chief_writing", "worker_texts"},
    {"agreed_branches", "batch_ready"},
    {"synchronised_callbacks"},
    {"fit_start"},
    {
        "metrics",
        "options",
        "strategy",
        "transport",
        "simulation",
        "handshake",
        "asking_plan",
    },
    {"accounting", "lone_exchange", "inner_optimizer", "kept_state", "meeting"},
    {"accumulator", "local_step", "outcome"},
    {"fused_step"},
    {"aggregation"},
    {"aggregating_optimizer"},
    {"gradient_sums", "testing"},
    {"conditional_steps", "local_exchange"},
    {"streaming"},
    {"local_updates"},
    {"optimizer"},
    {"compressed_adamw"},
    {"callbacks", "checkpoint", "forecast"},
    {"__init__"},
]
PLUGIN_NEEDS = {"keras", "numpy", "tensorflow"}  # The install_requires of setup.cfg.
INTERNALS = {"_internals.py", "_collective_internals.py", "_fit_internals.py"}
PRIVATE_MODULES = re.compile(r"\b(tensorflow\.python|keras\.src)\b")
MAXIMAL_LINES = 400
# What checks a command line, before anything is imported that takes seconds.
CHECKING = sorted(
    path
    for name in (
        *("flags", "configuration", "command_line", "directory", "data_places"),
        *("logdir", "environment", "study_files", "processes", "workload_settings"),
        *("compression_settings", "help_text", "program", "quiet_start"),
        *("missing_packages", "refusal", "written_files", "own_names"),
        *("compression_rows", "own_flags"),
    )
    for path in (ROOT / "tem_studies").rglob(f"{name}.py")
)

# Parts of the plugin that are loaded without it.
ALONE = ("durable_files", "heartbeat")

# Folders of the plugin, each with the place of one module. The launcher, in `launch`,
# stands for itself.
FOLDERS = (
    *("checkpoint", "cluster", "compressors", "forecast", "native", "testing", "wire"),
)
LAUNCHER = sorted([*(ROOT / "tem_tf" / "launch").glob("*.py"), ROOT / "tem_tf_run.py"])

PLUGIN = sorted(
    [
        *(ROOT / "tem_tf").glob("*.py"),
        *(path for name in FOLDERS for path in (ROOT / "tem_tf" / name).glob("*.py")),
    ]
)
PROGRAMS = sorted(
    path
    for path in [
        *ROOT.glob("*.py"),
        *(ROOT / "tem_tf").rglob("*.py"),
        *(ROOT / "tem_studies").rglob("*.py"),
        *(ROOT / "launch").rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*.py"),
    ]
    if "__pycache__" not in path.parts
)
# What a reader of the repository reads.
TEXTS = sorted(
    path
    for pattern in (
        *("*.md", "*.toml", "*.cfg", ".ci/*", ".*.yaml"),
        *("launch/*.s*", "launch/*.yaml", "launch/Dockerfile", "docs/*.md"),
    )
    for path in ROOT.glob(pattern)
) + sorted([*PROGRAMS, *(ROOT / "tests").rglob("*.py")])


def name_of(path: pathlib.Path) -> str:
    """A path as it is shown as the test's id."""
    return str(path.relative_to(ROOT))


def each(paths):
    """Runs a test once for each file."""
    return pytest.mark.parametrize("path", paths, ids=name_of)


def parse(path: pathlib.Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: pathlib.Path, tree: ast.Module | None = None) -> Iterator[str]:
    """Dotted names of all that a file imports, inside functions too.

    `from a.b import c` gives `a.b.c`, since c may be a module.

    Args:
        path: The file.
        tree: A part of it. Default: all.
    """
    for node in ast.walk(tree or parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(
                path.relative_to(ROOT).parts[:-1][: -node.level + 1 or None]
            )
            parts = [package] if node.level else []
            parts += [node.module] if node.module else []
            yield from (".".join([*parts, alias.name]) for alias in node.names)


def at_module_level(path: pathlib.Path) -> ast.Module:
    """What of a file runs when it is imported.

    Not what a function imports when it is called, nor what type checkers alone read.
    """
    tree = parse(path)
    tree.body = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    return tree


def imported_from_plugin(path: pathlib.Path) -> set[str]:
    """First names below `tem_tf` of what a file imports."""
    names = (name.split(".") for name in imports(path))
    return {name[1] for name in names if name[0] == "tem_tf" and len(name) > 1}


def module_of(path: pathlib.Path) -> str:
    """First name below `tem_tf` of a file of the plugin."""
    return path.relative_to(ROOT / "tem_tf").with_suffix("").parts[0]


# ------------------------------------------------------------------- who imports whom


def test_every_module_of_the_plugin_has_its_place():
    placed = set().union(*LAYERS)
    assert {module_of(path) for path in PLUGIN} == placed


@each(PLUGIN)
def test_plugin_imports_from_below_only(path):
    (row,) = (i for i, layer in enumerate(LAYERS) if module_of(path) in layer)
    below = set().union(*LAYERS[:row])
    own = {module_of(path)} & set(FOLDERS)
    assert imported_from_plugin(path) <= below | own
    assert "tem_tf" not in set(imports(path)), "imports the package, which is on top"


def file_of(name: str) -> pathlib.Path | None:
    """The file of a module, or of a package, by its dotted name; None if it is none."""
    place = ROOT.joinpath(*name.split("."))
    for file in (place.with_suffix(".py"), place / "__init__.py"):
        if file.is_file():
            return file
    return None


def files_imported_at_once(path: pathlib.Path) -> set[pathlib.Path]:
    """Our files that must have been read for a file of ours to be read.

    To import c from a.b is to read a, then a.b, then a.b.c if that is a module. But of
    a package in which the file is itself, and which has begun to be read before it,
    nothing is needed, unless c is a name of its own.
    """
    begun = {parent / "__init__.py" for parent in path.parents}
    found = set()
    for name in imports(path, at_module_level(path)):
        parts = name.split(".")
        files = [file_of(".".join(parts[:end])) for end in range(1, len(parts) + 1)]
        files = [file for file in files if file is not None]
        found |= {file for file in files if file not in begun} | set(files[-1:])
    return found


def circles(graph: dict) -> list[list]:
    """A circle for each edge that leads back to where a walk along the edges is."""
    found, done = [], set()

    def walk(node, way):
        if node in way:
            found.append([*way[way.index(node) :], node])
        elif node not in done:
            for following in sorted(graph.get(node, ())):
                walk(following, [*way, node])
            done.add(node)

    for node in graph:
        walk(node, [])
    return found


def test_circles_are_found():
    """So that the next test would see one."""
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]
    assert circles({"a": {"a"}}) == [["a", "a"]]


def test_no_modules_import_one_another_in_a_circle():
    """Folders included, inside of which the rows say nothing."""
    graph = {path: files_imported_at_once(path) for path in [*PLUGIN, *LAUNCHER]}
    wire = ROOT / "tem_tf" / "wire" / "__init__.py"
    assert wire in graph[ROOT / "tem_tf" / "transport.py"]
    assert wire.with_name("header.py") in graph[wire.with_name("frames.py")]
    found = [[name_of(path) for path in circle] for circle in circles(graph)]
    assert found == []


@each(PLUGIN)
def test_plugin_does_not_import_studies(path):
    assert "tem_studies" not in {name.split(".")[0] for name in imports(path)}


@each(PLUGIN)
def test_plugin_needs_no_other_packages(path):
    first = {name.split(".")[0] for name in imports(path)}
    others = first - set(sys.stdlib_module_names) - {"tem_tf", "__future__"}
    assert others <= PLUGIN_NEEDS


@each([p for p in PROGRAMS if p != ROOT / "tem_studies" / "command_line.py"])
def test_only_the_command_line_knows_absl(path):
    assert "absl" not in {name.split(".")[0] for name in imports(path)}


def imported_at_once(path: pathlib.Path, seen: set[str]) -> set[str]:
    """First names of all packages but ours that come with a file of tem_studies.

    Args:
        path: The file.
        seen: Names of files that were looked at; this one's are added.
    """
    found = set()
    for name in imports(path, at_module_level(path)):
        parts = name.split(".")
        if parts[0] != "tem_studies":
            found.add(parts[0])
            continue
        for end in (len(parts), len(parts) - 1):  # What is imported may be a module.
            file = ROOT.joinpath(*parts[:end]).with_suffix(".py")
            if file.exists() and name_of(file) not in seen:
                seen.add(name_of(file))
                found |= imported_at_once(file, seen)
    return found


@each(CHECKING)
def test_what_checks_settings_imports_nothing_slow(path):
    found = imported_at_once(path, set())
    assert found - set(sys.stdlib_module_names) - {"__future__"} <= {
        "absl",
        "tem_tf_run",
    }


def test_what_runs_imports_tensorflow_at_once():
    """So that the test above would see it."""
    path = ROOT / "tem_studies" / "data_parallelism" / "study.py"
    assert {"tensorflow", "numpy", "keras"} <= imported_at_once(path, set())


@each(
    [
        *LAUNCHER,
        *sorted((ROOT / "tem_tf" / "cluster").glob("*.py")),
        *(ROOT / "tem_tf" / f"{name}.py" for name in ALONE),
    ]
)
def test_what_is_loaded_without_tensorflow_needs_none(path):
    others = {
        name
        for name in imports(path)
        if name.split(".")[0] not in {*sys.stdlib_module_names, "__future__"}
    }
    # By which the launcher loads what it shares with the plugin.
    others -= {"tem_tf_run.load_part"}
    own = ("tem_tf.launch.", "tem_tf.cluster.")
    assert all(name.startswith(own) for name in others)


# ------------------------------------------------------------- private parts of others


@each([path for path in PROGRAMS if path.name not in INTERNALS])
def test_only_internals_names_private_modules(path):
    # Comments are no part of the tree, and a docstring may say where a fact is from.
    tree = parse(path)
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in documentation
    ]
    assert [t for t in [*imports(path), *texts] if PRIVATE_MODULES.search(t)] == []


@each([path for path in PROGRAMS if path.name not in INTERNALS])
def test_only_internals_names_private_members(path):
    # ruff's SLF001 sees the attributes; this sees what is reached by a string.
    named = [
        node.args[1].value
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name | ast.Attribute)
        and ast.unparse(node.func).split(".")[-1]
        in {"getattr", "hasattr", "setattr", "__setattr__", "delattr"}
        and len(node.args) > 1
        and isinstance(node.args[1], ast.Constant)
        and isinstance(node.args[1].value, str)
        and ast.unparse(node.args[0]) not in {"self", "cls"}
    ]
    assert [name for name in named if re.match(r"_(?!_)", name)] == []


# --------------------------------------------------------------------------- who writes

# Who may open a file for writing but by the durable writer, and for what.
WRITERS = {
    "tem_tf/durable_files.py": "the writer",
    "tem_tf/checkpoint/directory.py": "a damaged checkpoint's folder, renamed",
    "tem_tf/heartbeat.py": "signs of life, which need not last",
    "tem_tf/native/lock.py": "a lock",
    "tem_studies/quiet_start.py": "a descriptor of stderr",
    "tem_studies/workloads/logdir.py": "a lock",
    "tem_studies/workloads/prepared_data.py": "a lock",
    "tem_studies/workloads/study_files.py": "locks",
}
# Functions that write a file which they take, and so need one of the writer's.
SAVERS = {"save", "savez", "savez_compressed", "savefig", "save_weights"}
OURS = {"", "directory", "_saver"}  # Whose functions of these names take no file.


def writes(tree: ast.Module) -> Iterator[str]:
    """Calls that write a file by other means than the durable writer."""
    given = set()  # What a block of the writer's is called, or a file in memory.
    for node in ast.walk(tree):
        if isinstance(node, ast.withitem) and node.optional_vars is not None:
            if ast.unparse(node.context_expr).split("(")[0].endswith("opened"):
                given.add(ast.unparse(node.optional_vars))
        elif isinstance(node, ast.Assign) and "_MemoryFile(" in ast.unparse(node.value):
            given |= {ast.unparse(target) for target in node.targets}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        owner, _, name = ast.unparse(node.func).rpartition(".")
        first = ast.unparse(node.args[0]) if node.args else ""
        modes = [
            value.value
            for value in (*node.args, *(word.value for word in node.keywords))
            if isinstance(value, ast.Constant)
            and isinstance(value.value, str)
            and re.fullmatch(r"[rwaxbt+]{1,3}", value.value)
        ]
        if (
            (
                name in {"replace", "rename"}
                and (owner == "os" or (len(node.args), len(node.keywords)) == (1, 0))
            )
            or (name in {"write_text", "write_bytes"} and len(node.args) == 1)
            or (name == "open" and any(set(mode) & set("wax+") for mode in modes))
            or (
                name in SAVERS
                and owner.split(".")[-1] not in OURS
                and first not in given
            )
            or name in {"copyfile", "copy", "move"}
            and owner == "shutil"
        ):
            yield ast.unparse(node)


@pytest.mark.parametrize(
    "line",
    [
        "os.replace(a, b)",
        "a.rename(b)",
        "path.write_text('x')",
        "path.open('w')",
        "open(path, mode='ab')",
        "figure.savefig(path)",
        "np.savez(path, a=a)",
    ],
)
def test_other_ways_of_writing_are_found(line):
    """So that the next test would see one."""
    assert len(list(writes(ast.parse(line)))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "text.replace('a', 'b')",
        "with opened(path, 'wb') as file: np.savez(file, a=a)",
        "write_text(path, 'x')",
        "path.open('rb')",
    ],
)
def test_reading_and_the_durable_writer_are_no_other_ways(line):
    assert list(writes(ast.parse(line))) == []


@each(
    [
        path
        for path in PROGRAMS
        if path.relative_to(ROOT).parts[0] in {"tem_tf", "tem_studies"}
        and name_of(path) not in WRITERS
    ]
)
def test_every_file_is_written_by_the_durable_writer(path):
    assert list(writes(parse(path))) == []


@pytest.mark.parametrize("name", WRITERS)
def test_who_may_write_does(name):
    assert list(writes(parse(ROOT / name)))


# ------------------------------------------------------------------------ who runs what

# What runs a text or a file. A study's processes are given their work by their parent,
# and the board's read what it has written, without pickles.
RUNNING = {
    *("eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "np.load"),
    *("numpy.load", "yaml.load", "marshal.loads", "shelve.open", "joblib.load"),
}
RUNNERS = {
    "benchmarks/time_to_target_data.py": {"np.load"},
    "tem_studies/workloads/processes.py": {"pickle.loads"},
}


@each(PROGRAMS)
def test_nothing_that_is_read_is_run(path):
    calls = {
        ast.unparse(node.func)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call)
    }
    assert calls & RUNNING == RUNNERS.get(name_of(path), set())


# ---------------------------------------------------------------------- what a file is


@each(PROGRAMS)
def test_a_program_is_not_too_long_to_read(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAXIMAL_LINES


@each(TEXTS)
def test_no_file_names_a_path_of_one_machine(path):
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"(?<![\w.])/(?:work|root)\b[\w/.-]*", text) == []


# --------------------------------------------------------------------- the public names


@pytest.mark.parametrize("name", tem_tf.__all__)
def test_public_names_are_documented(name):
    if name == "__version__":
        assert re.fullmatch(r"\d+\.\d+\.\d+\S*", tem_tf.__version__)
        return
    # Its own words: inspect.getdoc would take those of a base class.
    public = getattr(tem_tf, name)
    own = vars(public).get("__doc__") if inspect.isclass(public) else public.__doc__
    assert inspect.cleandoc(own or "")


def test_import_does_not_initialise_tensorflow():
    program = (
        "import tem_tf, tensorflow as tf\n"
        "cpu = tf.config.list_physical_devices('CPU')[0]\n"
        "two = [tf.config.LogicalDeviceConfiguration()] * 2\n"
        # It raises once TensorFlow has run anything.
        "tf.config.set_logical_device_configuration(cpu, two)\n"
        "print(len(tf.config.list_logical_devices('CPU')))\n"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "2\n", result.stderr
