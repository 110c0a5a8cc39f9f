"""`dm2at serve` and `dm2at token` at the command line: what they print, and what they refuse in one line."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dm2at_ray.commands import serve as serve_module
from dm2at_ray.service.tokens import read_tokens

Answer = tuple[int, str, str]


def test_token_new__prints_the_token_once(dm2at: Callable[..., Answer], tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    code, stdout, stderr = dm2at("token", "new", "ann", "--role", "label", "--tokens", path)
    assert (code, stderr) == (0, "")
    assert stdout.startswith("dm2at_")
    assert stdout.strip() not in path.read_text()
    assert [(token.name, token.role) for token in read_tokens(path)] == [("ann", "label")]


def test_token_list__tells_names_and_roles_and_revoke_takes_back(
    dm2at: Callable[..., Answer], tmp_path: Path
) -> None:
    path = tmp_path / "tokens.yaml"
    for name, role in (("ann", "label"), ("bob", "operate")):
        dm2at("token", "new", name, "--role", role, "--tokens", path)
    assert dm2at("token", "list", "--tokens", path) == (0, "ann\tlabel\nbob\toperate\n", "")
    assert dm2at("token", "revoke", "ann", "--tokens", path) == (0, "", "")
    assert dm2at("token", "list", "--tokens", path) == (0, "bob\toperate\n", "")


def test_token__refuses_in_one_line(dm2at: Callable[..., Answer], tmp_path: Path) -> None:
    code, stdout, stderr = dm2at("token", "new", "ann", "--role", "king", "--tokens", tmp_path / "t.yaml")
    assert (code, stdout) == (2, "")
    assert stderr == "token: role 'king' is unknown; use one of read, label, operate\n"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_serve__without_tokens_listens_on_loopback_only(
    host: str, dm2at: Callable[..., Answer], tmp_path: Path
) -> None:
    code, stdout, stderr = dm2at("serve", "--runs", tmp_path, "--host", host, "--port", 0)
    assert (code, stdout) == (2, "")
    assert stderr.startswith(f"--host {host}: without --tokens the service listens on 127.0.0.1 only; ")
    assert stderr.count("\n") == 1


def test_serve__refuses_a_port_that_is_taken(dm2at: Callable[..., Answer], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, stdout, stderr = dm2at("serve", "--runs", tmp_path, "--port", port)
    assert (code, stdout) == (2, "")
    assert stderr.startswith(f"--host 127.0.0.1 --port {port}: Address already in use; ")
    assert stderr.count("\n") == 1


def test_serve__refuses_tokens_that_are_not_there(dm2at: Callable[..., Answer], tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    code, stdout, stderr = dm2at("serve", "--runs", tmp_path, "--port", 0, "--tokens", path)
    assert (code, stdout) == (2, "")
    assert stderr.startswith(f"--tokens {path}: No such file or directory; ")
    assert stderr.count("\n") == 1


def test_serve__without_the_extra_says_how_to_install_it(
    dm2at: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        serve_module.importlib.util, "find_spec", lambda name: None if name == "fastapi" else object()
    )
    code, stdout, stderr = dm2at("serve", "--runs", tmp_path)
    assert (code, stdout) == (2, "")
    assert stderr == "dm2at serve needs fastapi; install the extra: pip install 'dm2at-ray[service]'\n"


def test_help__loads_nothing_of_the_service() -> None:
    """Seen in a fresh interpreter: `dm2at --help` stays fast, and works without the extra."""
    code = (
        "import json, sys\nfrom dm2at_ray import cli\n"
        "heavy = ('fastapi', 'starlette', 'uvicorn', 'pydantic', 'ray', 'pyarrow', 'torch')\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_token__works_without_the_extra(tmp_path: Path) -> None:
    """Where the token's file is made there need not be a server."""
    code = (
        "import sys\nfor name in ('fastapi', 'starlette', 'uvicorn', 'uvloop', 'httptools'):\n"
        "    sys.modules[name] = None\n"
        f"sys.argv = 'dm2at token new ann --role read --tokens'.split() + [{str(tmp_path / 't')!r}]\n"
        "from dm2at_ray import cli\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
