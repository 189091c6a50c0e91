"""HTML pages from the templates in this folder. Text is escaped; a page is one file and fetches nothing.

`base.html` is what pages share, `macros.html` how a table, a chart and a picture look.
"""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from chexjax.formats import format_figure, format_name, format_threshold


def render(template: str, **values: Any) -> str:
    """The page as text. Values are escaped, except for `markupsafe.Markup`; what a template lacks raises."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("chexjax"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"figure": format_figure, "finding": format_name, "threshold": format_threshold}
    return environment
