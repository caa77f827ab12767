"""How a call to a provider can fail, told apart by what the provider may have done."""

from shared.errors import Unavailable


class OutcomeUnknown(Unavailable):
    """The provider may or may not have done it: never success, never failure."""

    code = "payment_outcome_unknown"


class ProviderAway(Unavailable):
    """The provider has surely done nothing, and may do it later."""

    code = "provider_unavailable"


class NotReached(ProviderAway):
    """No connection was made, so not a byte of the request has left."""


class CircuitOpen(ProviderAway):
    """The provider failed so often that it is left alone for a while; nothing was sent."""


class AllSlotsBusy(ProviderAway):
    """As many calls as may run at once are waiting for the provider already; nothing was sent."""
