"""Which pages the site has (mkdocs.yml): those of the repository, where they are.

So links between them, and to the pictures and tables that they show, lead to the same
places on the site and in a checkout. A link to a folder leads to its README.md. Links
to code become its name. The reference is made from what `tem_tf` exports.
"""

import ast
import pathlib
import re

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ("README.md", "CHANGELOG.md", "docs/*.md", "studies/*/README.md")
SHOWN = {".png", ".csv", ".txt"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files, config):
    """Takes the repository's pages in the place of the folder `docs`."""
    paths = {path for pattern in PAGES for path in ROOT.glob(pattern)}
    for page in list(paths):
        text = page.read_text(encoding="utf-8")
        targets = [(page.parent / link[3]).resolve() for link in LINK.finditer(text)]
        paths |= {path for path in targets if path.suffix in SHOWN and path.is_file()}
    found = [
        File(
            str(path.relative_to(ROOT)),
            str(ROOT),
            config.site_dir,
            config.use_directory_urls,
        )
        for path in sorted(paths)
    ]
    reference = File.generated(config, "reference.md", content=_reference())
    kept = [file for file in files if not file.src_uri.endswith((".md", ".png", ".py"))]
    return Files([*kept, *found, reference])


def on_page_markdown(markdown, page, config, files):
    """Has links to folders lead to their pages, and leaves those to code out."""
    folder = (ROOT / page.file.src_uri).parent

    def lead(link):
        image, words, target, anchor = link.groups(default="")
        path = (folder / target).resolve()
        if image or re.match("[a-z]+:", target) or not path.exists():
            return link[0]
        if path.is_dir() and (path / "README.md").exists():
            return f"[{words}]({target.rstrip('/')}/README.md{anchor})"
        source = str(path.relative_to(ROOT))
        return link[0] if files.get_file_from_path(source) else words

    return LINK.sub(lead, markdown)


def _reference() -> str:
    """A page with an entry for each public name."""
    module = ast.parse((ROOT / "tem_tf" / "__init__.py").read_text(encoding="utf-8"))
    names = next(
        ast.literal_eval(statement.value)
        for statement in module.body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and statement.targets[0].id == "__all__"
    )
    entries = [f"::: tem_tf.{name}" for name in sorted(names) if name[0] != "_"]
    return "\n\n".join(["# Reference", *entries]) + "\n"
