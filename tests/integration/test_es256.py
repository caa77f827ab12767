"""Services may sign with keys of their own: ES256, by a JWKS file (contract 3)."""

import base64
import hmac
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.harness import SECRETS, Api, Databases, running_api


@dataclass
class Signer:
    """An API that trusts one public key, and that key's owner."""

    api: Api
    key: ec.EllipticCurvePrivateKey

    def status(self, *, key: Any = None, algorithm: str = "ES256", kid: str = "k1") -> int:
        now = int(time.time())
        claims = {"iss": "loa-finn", "aud": "arrakis-internal", "iat": now, "exp": now + 60}
        token = jwt.encode(claims, key or self.key, algorithm=algorithm, headers={"kid": kid})
        path = "/api/internal/accounts/sys-commons/balance"
        return self.api.get(path, headers={"Authorization": f"Bearer {token}"}).status_code


@pytest.fixture(scope="module")
def signer(
    databases: Databases, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Signer]:
    directory: Path = tmp_path_factory.mktemp("keys")
    key = ec.generate_private_key(ec.SECP256R1())
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    keys = directory / "jwks.json"
    keys.write_text(json.dumps({"keys": [{**public, "kid": "k1", "alg": "ES256", "use": "sig"}]}))
    url = databases.make("sqlite")
    log = directory / "api.log"
    with running_api(url, redis_url, log, BILLING_INTERNAL_JWKS=str(keys)) as api:
        yield Signer(api, key)


def test_a_token_of_a_known_key_is_accepted_beside_our_secret(signer: Signer) -> None:
    assert signer.status() == 200
    secret = SECRETS["BILLING_INTERNAL_JWT_SECRET"]
    assert signer.status(key=secret, algorithm="HS256") == 200


def test_a_token_of_another_key_or_key_id_is_refused(signer: Signer) -> None:
    assert signer.status(key=ec.generate_private_key(ec.SECP256R1())) == 401
    assert signer.status(kid="k2") == 401
    assert signer.status(key=ec.generate_private_key(ec.SECP384R1()), algorithm="ES384") == 401


def test_the_public_key_is_no_secret_for_an_hmac(signer: Signer) -> None:
    pem = signer.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    now = int(time.time())
    claims = {"iss": "loa-finn", "aud": "arrakis-internal", "iat": now, "exp": now + 60}
    parts = [{"alg": "HS256", "typ": "JWT", "kid": "k1"}, claims]
    signed = b".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=") for p in parts)
    mac = base64.urlsafe_b64encode(hmac.digest(pem, signed, "sha256")).rstrip(b"=")
    headers = {"Authorization": f"Bearer {(signed + b'.' + mac).decode()}"}
    answer = signer.api.get("/api/internal/accounts/sys-commons/balance", headers=headers)
    assert answer.status_code == 401


def test_keys_that_cannot_be_read_are_a_503_and_our_secret_still_works(
    databases: Databases, redis_url: str, tmp_path: Path
) -> None:
    url = databases.make("sqlite")
    missing = str(tmp_path / "none.json")
    with running_api(url, redis_url, tmp_path / "log", BILLING_INTERNAL_JWKS=missing) as api:
        signer = Signer(api, ec.generate_private_key(ec.SECP256R1()))
        assert signer.status() == 503
        assert signer.status(key=SECRETS["BILLING_INTERNAL_JWT_SECRET"], algorithm="HS256") == 200
