"""The documentation as a site: `make docs` builds it into out/docs.

The source folder is the repository itself, so that the guides' relative links work on the site and
where the files are read as they are. Warnings are errors: a link that leads nowhere, a page that is
in no table of contents, or a name in a signature that is documented nowhere fails the build. No
network is used, which is why types of other packages are listed below instead of being linked.
"""

import os
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import domino_compile  # noqa: E402

project = "domino_compile"
author = "The domino_compile maintainers"
version = release = domino_compile.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "tests/README.md", "domino_compile/links/README.md"]
exclude_patterns = [".*", "out", "build", "dist"]

# Links between Markdown files lead to headings by the names that GitHub gives them.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# Docstrings write code in single backticks or double ones; neither is a reference.
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}

nitpicky = True
nitpick_ignore_regex = [
    # What belongs to Python, torch and sympy is described elsewhere.
    (r"py:.*", r"(torch|c10d|fx|dist|sympy)([.:].*)?"),
    (r"py:.*", r"(collections|datetime|enum|os|pathlib|types|typing)(\..*)?"),
]

html_theme = "furo"
html_title = f"domino_compile {release}"
html_extra_path = ["index.html"]  # forwards from the site's root to docs/index.html
html_show_sourcelink = False
html_copy_source = False


_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#:\s]+)\)")


def _unlink_sources(app: Sphinx, page: str, source: list[str]) -> None:
    """Show a link to a folder or a source file as plain text; the site holds pages only."""
    folder = app.env.doc2path(page).parent

    def plain(link: re.Match[str]) -> str:
        target = folder / link[2]
        return link[1] if target.exists() and target.suffix != ".md" else link[0]

    source[0] = _LINK.sub(plain, source[0])


def setup(app: Sphinx) -> None:
    """Register what is ours."""
    app.connect("source-read", _unlink_sources)
