"""Every error has a status of HTTP."""

from collections.abc import Iterator

from pacsnode import errors
from pacsnode.web.problem import HTTP_OF, status_of
from pacsnode.web.store_report import FAILURE_REASON_OF, MEANINGS, WARNING_REASON_OF


def subclasses(kind: type[errors.PacsnodeError]) -> Iterator[type[errors.PacsnodeError]]:
    for below in kind.__subclasses__():
        yield below
        yield from subclasses(below)


def test_every_error_has_a_status() -> None:
    for kind in subclasses(errors.PacsnodeError):
        if kind is not errors.RequestRefused:
            error = kind.__new__(kind)
            assert 400 <= status_of(error) < 600, kind


def test_what_a_client_did_wrong_is_no_fault_of_the_server() -> None:
    assert HTTP_OF[errors.InvalidIdentifier] == 400
    assert status_of(errors.RequestRefused(406, "")) == 406
    assert status_of(errors.OutOfResources("")) == 503


def test_the_conformance_statement_has_every_reason_of_the_store_transaction() -> None:
    assert MEANINGS.keys() == {*FAILURE_REASON_OF.values(), *WARNING_REASON_OF.values()}
