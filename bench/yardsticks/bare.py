"""Servers that answer and do nothing else: what HTTP, tokens and signatures cost by themselves.

Both are served by the same server with the same options as the real ones.
"""

import json
import os

import jwt
from flask import Flask, Response, request

from services.webhooks.signatures import verify

api = Flask("bare-api", static_folder=None)
receiver = Flask("bare-receiver", static_folder=None)
_known: dict[str, dict[str, object]] = {}


@api.post("/api/internal/reserve")
@api.post("/api/internal/finalize")
def _answer() -> Response:
    """Check the token (cached, as ours), read the JSON, write JSON of a reserve's size."""
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if token not in _known:
        _known[token] = jwt.decode(
            token,
            os.environ["BILLING_INTERNAL_JWT_SECRET"],
            algorithms=["HS256"],
            audience="arrakis-internal",
        )
    body = json.loads(request.get_data())
    answer = {
        "reservationId": "0" * 36,
        "accountId": body.get("accountId", ""),
        "poolId": "general",
        "reservedMicro": "10",
        "status": "pending",
        "billingMode": "live",
        "expiresAt": "2026-01-01T00:00:00.000Z",
        "balance": {"availableMicro": "1", "reservedMicro": "1", "debtMicro": "0"},
        "allocations": [{"lotId": "0" * 36, "reservedMicro": "10"}],
    }
    return Response(json.dumps(answer, separators=(",", ":")), mimetype="application/json")


@receiver.post("/api/billing/webhooks/nowpayments")
def _receive() -> Response:
    """Check the signature and answer."""
    secrets = (os.environ["NOWPAYMENTS_IPN_SECRET"],)
    verify(request.get_data(), request.headers.get("x-nowpayments-sig"), secrets)
    return Response('{"received": true, "duplicate": false}', mimetype="application/json")


@api.get("/api/internal/health")
@receiver.get("/health")
def _health() -> str:
    return "ok"
