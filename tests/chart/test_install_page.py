"""docs/install.md: its Helm commands and values are taken as they stand, and what it refers to is there."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from support_chart import REPOSITORY, Helm

PAGE = (REPOSITORY / "docs" / "install.md").read_text()
BLOCKS = re.findall(r"^( *)```(\w+)\n(.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL)
VALUES = [text for _, language, text in BLOCKS if language == "yaml"]
COMMANDS = [
    line
    for _, language, text in BLOCKS
    if language == "sh"
    for line in text.replace("\\\n", " ").splitlines()
    if line.strip().startswith(("helm install", "helm upgrade"))
]


@pytest.mark.parametrize("text", VALUES, ids=[text.splitlines()[1].rstrip(":") for text in VALUES])
def test_values_are_taken(helm: Helm, text: str) -> None:
    assert text.startswith("# values.yaml\n")
    assert helm.template(REPOSITORY / "charts" / "ralb", values=yaml.safe_load(text))


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_taken(helm: Helm, line: str) -> None:
    words = shlex.split(line, comments=True)
    chart = next(word for word in words if word.startswith("charts/"))
    options = [word for word in words[4:] if word not in ("--wait", "--reset-then-reuse-values")]
    done = helm.run("template", words[2], REPOSITORY / chart, *options)
    assert done.returncode == 0, done.stderr


def test_there_are_some() -> None:
    assert len(VALUES) == 4
    assert len(COMMANDS) == 4


def test_links_and_files_exist() -> None:
    here = REPOSITORY / "docs"
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", PAGE) if "://" not in link]
    assert [link for link in links if not (here / link).exists()] == []
    files = re.findall(r"-f (\S+)", PAGE)
    assert [file for file in files if not Path(REPOSITORY / file).exists()] == []


def test_values_named_in_the_text_exist() -> None:
    readme = (REPOSITORY / "charts" / "ralb" / "README.md").read_text()
    table = PAGE.partition("## Values that matter")[2].partition("###")[0]
    named = re.findall(r"`((?:gateway|credentials|watch|tls|networkPolicy|metrics)\.[\w.]+)`", table)
    assert len(named) >= 8
    assert [name for name in named if f"`{name}`" not in readme] == []
