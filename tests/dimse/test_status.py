"""The table error -> status is total, and knows the statuses that the standard gives storage."""

from collections.abc import Iterator

import pytest
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, code_to_category

from pacsnode import errors
from pacsnode.dimse import status


def leaves(root: type[errors.OperationError]) -> Iterator[type[errors.OperationError]]:
    below = root.__subclasses__()
    if not below:
        yield root
    for one in below:
        yield from leaves(one)


def test_every_operation_error_has_a_status() -> None:
    assert set(leaves(errors.OperationError)) <= set(status.STATUS_OF)
    assert all(issubclass(error, errors.OperationError) for error in status.STATUS_OF)


@pytest.mark.parametrize("error", [errors.OutOfResources, errors.DataSetMismatch, errors.CannotUnderstand])
def test_storage_failures_are_the_standards(error: type[errors.OperationError]) -> None:
    assert STORAGE_SERVICE_CLASS_STATUS[status.STATUS_OF[error]][0] == "Failure"


@pytest.mark.parametrize(
    "code", [0x0000, 0x0001, 0x0107, 0x0116, 0xB000, 0xB007, 0xFE00, 0xFF00, 0xFF01, 0xA700, 0xC001, 0x0122]
)
def test_categories_agree_with_pynetdicom(code: int) -> None:
    category = code_to_category(code)
    assert status.is_pending(code) == (category == "Pending")
    assert status.is_warning(code) == (category == "Warning")
    assert status.is_failure(code) == (category == "Failure")
