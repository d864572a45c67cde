"""The page of errors names every code there is, and no other."""

import re
from pathlib import Path

from ralb_api.errors import Code

PAGE = Path(__file__).parents[3] / "docs" / "errors.md"


def test_every_code_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d, -]+) \| .+ \| .+ \|$", PAGE.read_text(), re.MULTILINE)
    assert {code for code, _ in rows} == {str(code) for code in Code}
    assert len(rows) == len(Code)
