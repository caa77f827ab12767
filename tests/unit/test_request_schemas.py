"""What requests may say, and what they mean when they say nothing."""

import pytest
from pydantic import ValidationError

from services.api.schemas.requests import FinalizeRequest, HistoryQuery, MintRequest


def test_a_history_has_fifty_entries_from_the_first_unless_told_otherwise() -> None:
    """Behaviour 121."""
    assert HistoryQuery.model_validate({"limit": "25"}).limit == 25
    plain = HistoryQuery.model_validate({})
    assert (plain.limit, plain.offset) == (50, 0)


def test_a_finalize_may_name_its_account_and_must_name_its_hold_and_cost() -> None:
    """Behaviour 120."""
    body = {"reservationId": "r", "actualCostMicro": "5"}
    assert FinalizeRequest.model_validate(body).actual_cost_micro == 5
    assert FinalizeRequest.model_validate({**body, "accountId": "a"}).account_id == "a"
    for wrong in ({"reservationId": ""}, {"actualCostMicro": "5x"}, {"actualCostMicro": "-5"}):
        with pytest.raises(ValidationError):
            FinalizeRequest.model_validate({**body, **wrong})


def test_a_mint_is_a_grant_in_general_and_never_a_refund() -> None:
    """Behaviour 111."""
    plain = MintRequest.model_validate({"amountMicro": "5"})
    assert (plain.source_type, plain.pool_id) == ("grant", "general")
    told = {"sourceType": "deposit", "poolId": "campaign:x", "description": "d", "paymentId": "p"}
    whole = MintRequest.model_validate({"amountMicro": "5", **told})
    assert (whole.source_type, whole.pool_id, whole.payment_id) == ("deposit", "campaign:x", "p")
    with pytest.raises(ValidationError):
        MintRequest.model_validate({"amountMicro": "5", "sourceType": "refund"})
