"""A form with a file, as clients upload them."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from landrace.server.http.errors import ApiError, FieldError
from landrace.server.jobs.files import PURPOSES

_FIELDS = ("file", "purpose")
_IGNORED = ("expires_after[anchor]", "expires_after[seconds]")
_MAX_NAME = 256


@dataclass(frozen=True)
class Upload:
    """Checked; the file is still to be read."""

    file: UploadFile
    name: str
    purpose: str


async def read_upload(http: Request) -> tuple[FormData, Upload]:
    """The form, which the caller closes, and what it uploads. Raises ApiError and FieldError."""
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ApiError(400, "Files are sent as multipart/form-data.", code="invalid_content_type")
    try:
        form = await http.form(max_files=1, max_fields=8)
    except HTTPException as error:
        if error.status_code != 400:  # it is too large, or too slow
            raise
        raise ApiError(400, f"The form cannot be read: {error.detail}", code="invalid_form") from error
    try:
        return form, _checked(form)
    except BaseException:
        await form.close()
        raise


def _checked(form: FormData) -> Upload:
    for name in form:
        if name in _IGNORED:
            raise FieldError(
                "expires_after is not supported: delete the file when it is done with.",
                field=name,
                code="unsupported_parameter",
            )
        if name not in _FIELDS:
            raise FieldError(f"There is no field {name!r} here.", field=name, code="unknown_parameter")
    file, purpose = form.get("file"), form.get("purpose")
    if not isinstance(file, UploadFile):
        raise FieldError("The field 'file' is required.", field="file", code="missing_required_parameter")
    if purpose not in PURPOSES:
        raise FieldError(f"purpose must be one of {', '.join(PURPOSES)}.", field="purpose")
    name = (file.filename or "upload")[:_MAX_NAME]
    return Upload(file, name, str(purpose))
