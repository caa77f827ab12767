"""How every API of the simulator answers: JSON as JavaScript prints it."""

from flask import Response

from deploy.simulator.wire import print_json


def json_answer(value: object, http_status: int = 200) -> Response:
    """Return *value* as a JSON response."""
    return Response(print_json(value), http_status, mimetype="application/json")
