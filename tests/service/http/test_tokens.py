"""The file of tokens: never a token in it, never half of it, never two of a name."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from pathlib import Path

import pytest
import yaml

from dm2at_ray.errors import ConfigError
from dm2at_ray.service.tokens import TokenFile, new_token, read_tokens, revoke_token


def test_new_token__is_in_the_file_as_its_sha256_only(tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    secret = new_token(path, "ann@example.org", "label")
    assert len(secret) > 40
    text = path.read_text()
    assert secret not in text
    assert yaml.safe_load(text) == [
        {"name": "ann@example.org", "role": "label", "sha256": hashlib.sha256(secret.encode()).hexdigest()}
    ]


def test_new_token__leaves_a_file_for_its_owner_only_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    before = os.umask(0)
    try:
        new_token(path, "ann", "label")
        new_token(path, "bob", "read")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["tokens.yaml"]


def test_new_token__two_are_never_alike(tmp_path: Path) -> None:
    secrets = {new_token(tmp_path / "tokens.yaml", f"p{number}", "read") for number in range(20)}
    assert len(secrets) == 20


def test_new_token__at_once_by_many_loses_none(tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    makers = [
        threading.Thread(target=new_token, args=(path, f"person-{number}", "label")) for number in range(16)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert sorted(token.name for token in read_tokens(path)) == sorted(f"person-{n}" for n in range(16))


@pytest.mark.parametrize(
    ("name", "role", "pattern"),
    [
        ("ann", "label", "token ann: .* has one already"),
        ("bob", "admin", "role 'admin' is unknown; use one of read, label, operate"),
        ("", "read", "name '' cannot be used"),
        ("b\nc", "read", r"name 'b\\nc' cannot be used"),
        ("b" * 65, "read", "cannot be used"),
    ],
)
def test_new_token__refuses_what_makes_no_sense_and_changes_nothing(
    name: str, role: str, pattern: str, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.yaml"
    new_token(path, "ann", "label")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=pattern):
        new_token(path, name, role)
    assert path.read_bytes() == before


def test_revoke_token__takes_out_one(tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    for name in ("ann", "bob"):
        new_token(path, name, "label")
    revoke_token(path, "ann")
    assert [token.name for token in read_tokens(path)] == ["bob"]
    with pytest.raises(ConfigError, match=r"token ann: .* has none of this name"):
        revoke_token(path, "ann")


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("{", "not valid YAML"),
        ("ann: x", "not a list"),
        ("- ann", "entry 1 has not exactly name, role and sha256"),
        ("- {name: ann, role: read}", "entry 1 has not exactly"),
        ("- {name: ann, role: read, sha256: abc}", "entry 1: sha256 is not 64 hex digits"),
        ("- {name: ann, role: root, sha256: " + "a" * 64 + "}", "entry 1: role 'root' is unknown"),
        (2 * ("- {name: ann, role: read, sha256: " + "a" * 64 + "}\n"), "ann is there twice"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_read_tokens__names_what_is_wrong(text: str, pattern: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=pattern):
        read_tokens(path)


def test_token_file__knows_each_token_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    secrets = {name: new_token(path, name, "label") for name in ("ann", "bob")}
    tokens = TokenFile(path)
    for name, secret in secrets.items():
        found = tokens.find(secret)
        assert found is not None
        assert found.name == name
    digest = read_tokens(path)[0].sha256
    for wrong in ("", "x", secrets["ann"][:-1], secrets["ann"] + " ", digest, secrets["ann"].upper()):
        assert tokens.find(wrong) is None


def test_token_file__sees_changes_when_it_looks(tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    ann, bob = new_token(path, "ann", "label"), new_token(path, "bob", "label")
    tokens = TokenFile(path)
    revoke_token(path, "ann")
    tokens.look()
    assert tokens.find(ann) is None
    assert tokens.find(bob) is not None


def test_token_file__lets_nobody_in_while_it_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    ann = new_token(path, "ann", "label")
    good = path.read_bytes()
    tokens = TokenFile(path)
    path.write_bytes(good[:-5])
    tokens.look()
    with pytest.raises(ConfigError):
        tokens.find(ann)
    path.unlink()
    tokens.look()
    with pytest.raises(ConfigError):
        tokens.find(ann)
    path.write_bytes(good)
    tokens.look()
    assert tokens.find(ann) is not None


def test_token_file__without_a_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory; make it by `dm2at token new"):
        TokenFile(tmp_path / "none.yaml")
    path = tmp_path / "tokens.yaml"
    new_token(path, "ann", "label")
    revoke_token(path, "ann")
    with pytest.raises(ConfigError, match="no token in it"):
        TokenFile(path)
