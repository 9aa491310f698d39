"""What Sphinx makes of the pages that scripts/site.py lays out for one language."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.search import SearchLanguage

import menura
from menura.option_spec import specs_of

HERE = Path(__file__).parent
CHINESE = os.environ["MENURA_SITE_LANGUAGE"] == "zh"

project, author, copyright = "Menura", "the authors of Menura", "the authors of Menura, Apache-2.0"
release = version = menura.__version__
language = "zh_CN" if CHINESE else "en"
locale_dirs = ["locale"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
nitpicky = False  # types of other packages have no pages here
html_theme = "furo"
html_title = f"Menura {release}"
html_static_path, templates_path = [str(HERE / "static")], [str(HERE / "templates")]
html_css_files = ["site.css"]
html_favicon = html_logo = str(HERE.parents[1] / "src/menura/server/pages/static/logo.svg")
html_copy_source = html_show_sourcelink = False
html_context = {"chinese": CHINESE}
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "languages.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_theme_options = {"top_of_page_buttons": []}
pygments_style, pygments_dark_style = "friendly", "native"

myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]

autodoc_mock_imports = ["torch", "soundfile", "soxr", "faiss", "safetensors", "av"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": True}
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 80


class Bigrams(SearchLanguage):
    """Chinese text by single characters and pairs of them, other text by words, on both sides of a search.

    Sphinx's own class for Chinese has a dictionary's words in its index, and looks for the whole query in it.
    """

    lang, language_name = "zh", "Chinese"
    js_splitter_code = (HERE / "static" / "splitter.js").read_text(encoding="utf-8")
    _parts = re.compile(r"[\u3400-\u9fff]+|[^\W\u3400-\u9fff]+")

    def split(self, input: str) -> list[str]:
        words = []
        for part in self._parts.findall(input):
            han = "\u3400" <= part[0] <= "\u9fff"
            words += [*part, *(part[i : i + 2] for i in range(len(part) - 1))] if han else [part]
        return words

    def stem(self, word: str) -> str:
        return word.lower()


def _help_of_options(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """A field of an options class is described by its definition."""
    owner, _, field = name.rpartition(".")
    cls = getattr(menura, owner.rpartition(".")[2], None)
    if what == "attribute" and not lines and isinstance(cls, type) and cls.__name__.endswith("Options"):
        lines += [spec.help for spec in specs_of(cls) if spec.name == field]


def setup(app: Sphinx) -> None:
    app.add_search_language(Bigrams)
    app.connect("autodoc-process-docstring", _help_of_options)
