"""Writes ``docs/query-api.md`` from the docstrings of ``regmeta.query``: ``python docs/reference.py``.

With ``--check`` nothing is written, and the exit code says whether the page is what it would be.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import regmeta.query

PAGE: Final = Path(__file__).parent / "query-api.md"
_TOOLS: Final = ("regmeta.query.cursors", "regmeta.query.visibility")
INTRODUCTION: Final = """\
# The query API

What `regmeta.query` offers, made from its docstrings by `python docs/reference.py`. Everything here only
reads, in one transaction of one moment a call, and may be called from several threads. Answers are frozen
values: sizes are in bytes, times are aware and in UTC, digests are `regmeta.oci.digest.Digest`.

```python
from regmeta import app
from regmeta.query.lists.tags import tags
from regmeta.settings import load_settings

with app.open_for_reading(load_settings()) as registry:
    page = tags(registry.database, "hello")
```

Most functions take `visible`: who asks sees no more than what it lets through, see
[`regmeta.query.visibility`](#regmetaqueryvisibility). A list takes `after`: the `next` of the page before, as
[`regmeta.query.cursors`](#regmetaquerycursors) tells.
"""


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    wanted = "\n".join(lines()).rstrip() + "\n"
    if parser.parse_args().check:
        if PAGE.read_text() == wanted:
            return 0
        print(f"{PAGE} is not what the docstrings say: run python docs/reference.py", file=sys.stderr)
        return 1
    PAGE.write_text(wanted)
    return 0


def lines() -> Iterator[str]:
    """Give the lines of the page."""
    yield INTRODUCTION
    modules = list(_modules())
    yield "| module | what it answers |"
    yield "| --- | --- |"
    for module in modules:
        yield f"| [`{module.__name__}`](#{_anchor(module.__name__)}) | {_first_line(module)} |"
    for module in modules:
        yield from _module(module)


def _modules() -> Iterator[ModuleType]:
    for found in sorted(
        pkgutil.walk_packages(regmeta.query.__path__, "regmeta.query."), key=lambda item: item.name
    ):
        if any(part.startswith("_") for part in found.name.split(".")):
            continue
        module = importlib.import_module(found.name)
        if any(_public(module)):
            yield module


def _module(module: ModuleType) -> Iterator[str]:
    yield f"\n## {module.__name__}\n"
    yield from _text(module)
    for name, item in _public(module):
        yield f"\n### {name}\n"
        if dataclasses.is_dataclass(item):
            yield from _text(item)
            yield "\n```python"
            for field in dataclasses.fields(item):
                default = "" if field.default is dataclasses.MISSING else f" = {field.default!r}"
                yield f"{field.name}: {_type(field.type)}{default}"
            yield "```"
        elif inspect.isclass(item):
            yield from _text(item)
        else:
            yield "```python"
            yield _signature(name, item)
            yield "```\n"
            yield from _text(item)


def _public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Give what a module defines for others; a function that takes a connection is for the package itself."""
    for name, item in vars(module).items():
        if name.startswith("_") or getattr(item, "__module__", None) != module.__name__:
            continue
        is_value = inspect.isclass(item) and not issubclass(item, BaseException)
        if is_value or (inspect.isfunction(item) and _is_for_others(module, item)):
            yield name, item


def _is_for_others(module: ModuleType, function: Any) -> bool:
    if module.__name__ in _TOOLS:
        return True
    return "database" in inspect.signature(function).parameters


def _signature(name: str, item: Any) -> str:
    signature = inspect.signature(item)
    parameters, starred = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            parameters.append("*")
            starred = True
        parameters.append(f"{parameter}".replace("'", ""))
    returned = _type(signature.return_annotation)
    one = f"{name}({', '.join(parameters)}) -> {returned}"
    if len(one) <= 100:
        return one
    return "\n".join([f"{name}(", *(f"    {parameter}," for parameter in parameters), f") -> {returned}"])


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _text(item: Any) -> Iterator[str]:
    text = inspect.getdoc(item) or ""
    shown = text.replace("``", "`").replace(":func:`", "`").replace(":class:`", "`").replace(":meth:`", "`")
    yield from shown.splitlines()


def _first_line(item: Any) -> str:
    text = inspect.getdoc(item) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")


def _anchor(name: str) -> str:
    return name.replace(".", "").lower()


if __name__ == "__main__":
    raise SystemExit(main())
