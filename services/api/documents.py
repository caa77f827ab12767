"""The document and its page, written once, when they are first asked for."""

import json
from functools import cached_property
from typing import Any

from flask import Flask

from services.api.document import document
from services.api.page import Page, render


class Documents:
    """What the documentation's routes serve for *app*."""

    def __init__(self, app: Flask) -> None:
        self._app = app

    @cached_property
    def content(self) -> dict[str, Any]:
        """The document."""
        return document(self._app)

    @cached_property
    def text(self) -> str:
        """The document as JSON."""
        return json.dumps(self.content, ensure_ascii=False)

    @cached_property
    def page(self) -> Page:
        """The page for people."""
        return render(self.content)
