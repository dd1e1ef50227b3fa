"""Tokens: their records, what is made from them, and which ones are valid."""

from __future__ import annotations

import asyncio
import json
import stat
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bioengine_server.access.caller import token_id
from bioengine_server.access.errors import (
    AccessDenied,
    BadTokenName,
    NoSuchToken,
    TokenExists,
    TokenExpired,
    TokenOfClient,
    TokenOfRegistration,
    TokenOfWorker,
    TokenRevoked,
    TokensUnreadable,
    UnknownToken,
)
from bioengine_server.access.registry import Token, TokenRegistry
from bioengine_server.hypha.secrets import new_secret
from bioengine_server.hypha.tokens import Verifier, sign, use_secret
from hypha.core import UserInfo
from hypha.core.auth import create_scope, generate_anonymous_user, generate_auth_token


@pytest.fixture
def registry(tmp_path: Path) -> TokenRegistry:
    use_secret(new_secret())
    return TokenRegistry(tmp_path)


def expire(registry: TokenRegistry, home: Path, name: str) -> None:
    """Have a token have expired a while ago."""
    file = home / "tokens.json"
    content = json.loads(file.read_text())
    for entry in content["tokens"]:
        if entry["name"] == name:
            entry["expires"] = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    file.write_text(json.dumps(content))


def test_a_record_has_everything_but_the_token(registry: TokenRegistry, tmp_path: Path) -> None:
    token = registry.create("ada", 2, requests=3, max_size=10**9)
    assert registry.all() == [token] and registry.find(token.id) == token and token.state == "valid"
    assert token.expires - token.created == timedelta(days=2)
    file = tmp_path / "tokens.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sign(token) not in file.read_text() and set(json.loads(file.read_text())["tokens"][0]) == set(Token.model_fields)


@pytest.mark.parametrize("name", ["", "Ada", "ada lovelace", "../x", "-a", "a--b", "a_b", "a/b", "a" * 41, "ä", "a\n"])
def test_a_name_that_cannot_be_one_is_refused(registry: TokenRegistry, name: str) -> None:
    with pytest.raises(BadTokenName, match=r"cannot be a token's name.*such as ada"):
        registry.create(name, 1)


def test_a_name_is_free_again_when_its_token_has_ended(registry: TokenRegistry, tmp_path: Path) -> None:
    first = registry.create("ada", 1)
    with pytest.raises(TokenExists, match=r"already a valid token 'ada'.*token revoke ada"):
        registry.create("ada", 1)
    registry.revoke("ada")
    second = registry.create("ada", 1)
    assert [token.id for token in registry.all()] == [second.id]
    with pytest.raises(UnknownToken, match=r"no longer known to this server.*token create"):
        registry.checked(first.id)
    expire(registry, tmp_path, "ada")
    assert registry.create("ada", 1).id != second.id


def test_what_has_ended_says_how(registry: TokenRegistry, tmp_path: Path) -> None:
    ada, bob = registry.create("ada", 1), registry.create("bob", 1)
    assert registry.checked(ada.id) == ada
    assert registry.revoke("ada").state == "revoked" and registry.revoke("ada").state == "revoked"
    with pytest.raises(TokenRevoked, match=r"The token 'ada' has been revoked.*token create NAME"):
        registry.checked(ada.id)
    expire(registry, tmp_path, "bob")
    with pytest.raises(TokenExpired, match=r"The token 'bob' expired on 20\d\d-.* UTC. Ask .*token create NAME"):
        registry.checked(bob.id)
    with pytest.raises(NoSuchToken, match=r"no token 'eve'.*There are: ada, bob"):
        registry.revoke("eve")


def test_a_change_by_another_process_counts_at_once(registry: TokenRegistry, tmp_path: Path) -> None:
    token = registry.create("ada", 1)
    assert registry.checked(token.id)
    TokenRegistry(tmp_path).revoke("ada")
    with pytest.raises(TokenRevoked):
        registry.checked(token.id)


def _create_some(home: Path, process: int) -> None:
    for number in range(5):
        TokenRegistry(home).create(f"p{process}-n{number}", 1)


def test_several_processes_lose_nothing(registry: TokenRegistry, tmp_path: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        list(pool.map(_create_some, [tmp_path] * 4, range(4)))
    assert len(registry.all()) == 20
    assert not list(tmp_path.glob(".tokens.json.*"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"tokens": 1}', '{"tokens": [{"id": "x"}]}', '{"tokens": [[]]}'])
def test_records_that_cannot_be_read_let_nobody_in(registry: TokenRegistry, tmp_path: Path, content: str) -> None:
    token = registry.create("ada", 1)
    (tmp_path / "tokens.json").write_text(content)
    with pytest.raises(TokensUnreadable, match="so none is accepted"):
        registry.checked(token.id)
    with pytest.raises(TokensUnreadable):
        Verifier(registry).user_of(sign(token))
    with pytest.raises(TokensUnreadable):
        registry.create("bob", 1)
    assert (tmp_path / "tokens.json").read_text() == content, "nothing is lost that could be put right"


def test_a_token_leads_to_its_record(registry: TokenRegistry) -> None:
    ada = registry.create("ada", 1)
    user = Verifier(registry).user_of(sign(ada))
    assert user.id == "token-ada" and token_id(user.roles) == ada.id and not user.is_anonymous
    assert list(user.scope.workspaces) == ["ws-user-token-ada"], "its own workspace and no other"


def test_a_token_for_workers_lets_workers_in_and_nobody_else(registry: TokenRegistry, tmp_path: Path) -> None:
    verifier = Verifier(registry)
    worker, client = sign(registry.create("gpu-2", 1, worker=True)), sign(registry.create("ada", 1))
    verifier.check_worker(worker)
    with pytest.raises(TokenOfWorker, match="only for workers"):
        verifier.user_of(worker)
    with pytest.raises(TokenOfClient, match="token create NAME --worker"):
        verifier.check_worker(client)
    for wrong in ("", "abc", f"{worker[:-4]}AAAA"):
        with pytest.raises(AccessDenied):
            verifier.check_worker(wrong)
    registry.revoke("gpu-2")
    with pytest.raises(TokenRevoked):
        verifier.check_worker(worker)


def test_a_registration_token_of_an_earlier_version_opens_nothing(registry: TokenRegistry, tmp_path: Path) -> None:
    token = sign(registry.create("hub", 1))
    file = tmp_path / "tokens.json"
    file.write_text(file.read_text().replace('"registration": false', '"registration": true'))
    for check in (Verifier(TokenRegistry(tmp_path)).user_of, Verifier(TokenRegistry(tmp_path)).check_worker):
        with pytest.raises(TokenOfRegistration, match="bioengine worker"):
            check(token)


def test_a_token_that_has_ended_is_none(registry: TokenRegistry, tmp_path: Path) -> None:
    verifier, ada = Verifier(registry), registry.create("ada", 1)
    token = sign(ada)
    expire(registry, tmp_path, "ada")
    with pytest.raises(TokenExpired, match=r"'ada' expired"):
        verifier.user_of(token)
    registry.revoke("ada")
    with pytest.raises(TokenRevoked, match=r"'ada' has been revoked"):
        verifier.user_of(token)
    (tmp_path / "tokens.json").unlink()
    with pytest.raises(UnknownToken):
        verifier.user_of(token)


def test_a_token_expires_by_itself_too(registry: TokenRegistry, tmp_path: Path) -> None:
    token = registry.create("ada", 1 / 24 / 3600)
    signed = sign(token)
    time.sleep(2.1)
    with pytest.raises(TokenExpired, match=r"'ada' expired on"):
        Verifier(registry).user_of(signed)
    (tmp_path / "tokens.json").unlink()
    with pytest.raises(TokenExpired, match=r"^The token expired. Ask"):
        Verifier(registry).user_of(signed)


@pytest.mark.parametrize("change", ["signature", "secret", "words", "empty", "none", "rs256", "number"])
def test_what_this_server_did_not_sign_is_none(registry: TokenRegistry, change: str) -> None:
    from hypha.core.auth import jwt

    token: object = sign(registry.create("ada", 1))
    assert isinstance(token, str)
    claims = jwt.get_unverified_claims(token)
    if change == "signature":
        token = token[:-6] + ("AAAAAA" if token[-6:] != "AAAAAA" else "BBBBBB")
    elif change == "secret":
        token = jwt.encode(claims, "0" * 48, algorithm="HS256")
    elif change == "none":
        token = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + token.split(".")[1] + "."
    elif change == "rs256":  # what the account service of Hypha's makers signs; nothing is asked of it
        token = "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ." + token.split(".")[1] + ".AAAA"
    else:
        token = {"words": "not.a.token", "empty": "", "number": 5}[change]
    with pytest.raises(AccessDenied):
        Verifier(registry).user_of(token)


def test_what_an_anonymous_client_makes_for_itself_does_not_count(registry: TokenRegistry) -> None:
    anonymous = generate_anonymous_user()
    anonymous.scope = create_scope({"ws-x": "a"})
    made = asyncio.run(generate_auth_token(anonymous, 3600))
    assert token_id(Verifier(registry).user_of(made).roles) == ""


def test_what_is_made_of_a_token_dies_with_it(registry: TokenRegistry) -> None:
    """Hypha makes reconnection tokens, and those of `generate_token`, of the user whom it knows."""
    ada, verifier = registry.create("ada", 1), Verifier(registry)
    user = verifier.user_of(sign(ada))
    child = UserInfo(id="child", is_anonymous=False, roles=user.roles, scope=create_scope({"ws-x": "r"}), parent=user.id)
    made = asyncio.run(generate_auth_token(child, 10 * 365 * 24 * 3600))
    assert token_id(verifier.user_of(made).roles) == ada.id
    registry.revoke("ada")
    with pytest.raises(TokenRevoked):
        verifier.user_of(made)
