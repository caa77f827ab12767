"""The body of a top-up: for a quote, with a signed payment, or with a transfer made before."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from services.api.schemas.fields import Request
from services.api.schemas.payments import TopUpDollars

_HEX_MAX = 20_000
PackId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class TopUpRequest(Request):
    """How much, or which pack; and the transfer that pays it, if it was made already.

    ``amount`` is what the earlier form told as paid; the chain is asked instead, so it counts for
    nothing.
    """

    amount_usd: TopUpDollars | None = None
    pack_id: PackId | None = None
    quote_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")] | None = None
    tx_hash: Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{64}$")] | None = None
    chain_id: Annotated[int, Field(ge=1, le=2**53)] | None = None
    sender: Annotated[str | None, Field(alias="from", pattern=r"^0x[0-9a-fA-F]{40}$")] = None
    amount: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    signature: Annotated[str, Field(pattern=r"^0x([0-9a-fA-F]{2})+$", max_length=_HEX_MAX)] = "0x00"

    @model_validator(mode="after")
    def _is_one_purchase(self) -> Self:
        if (self.amount_usd is None) == (self.pack_id is None):
            raise ValueError("either amountUsd or packId must be given")
        is_told = [self.tx_hash is not None, self.chain_id is not None, self.sender is not None]
        if any(is_told) and not all(is_told):
            raise ValueError("txHash, chainId and from belong together")
        return self
