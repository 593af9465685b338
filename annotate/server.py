"""The requests that annotators need, each checked before MONAI Label sees it; nothing else of MONAI Label is reachable.

Started with ``--uvicorn_app annotate.server:app``, the repository's root on PYTHONPATH. MONAI Label's own application is
not used: what is not a route of this file does not exist here, so nothing has to be switched off one by one. A route
checks every name and value (:mod:`.requests_check`), judges files (:mod:`.uploads`), then calls what the original
endpoint calls. Left out, and why:

==================================== ====================================================================================
``PUT, DELETE, GET /model/NAME``      replaces, removes or gives away the weights; a checkpoint can hold code
``POST /train/``, ``run_sync``,       trains every model; trains within the server, which then answers nobody; queues a
``enqueue``                           second training behind the first
``PUT /session/``, ``session_id``     unpacks archives of clients (names in them lead anywhere); switched off
``/batch/infer``, ``/scoring``        a second process that writes the datastore: two writers lose entries
``/infer/wsi``, ``/infer/wsi_v2``     pathology; its parameters go unchecked into the request
``file``, ``label`` of an inference   images beside the datastore; scribbles, which no model here takes
``output=dicom_seg``                  runs a program on a path that is cut out of the image's name
``save_label``, ``label_tag``         an inference that overwrites labels; the tag is a folder's name
``DELETE /datastore/image, /label``   removes scans and annotations for good: a hand on the disk does that
``PUT /datastore/.../info``           forges scores of a strategy and names of files
``GET /datastore/dataset``            writes a copy of the study into the temporary folder at each call
``check_sum`` of an image             the name of any algorithm of hashlib goes into a call
``/proxy/``                           fetches any path of the study's address for whoever asks
``/logs/``                            paths, names and requests of everybody; its page loads programs from elsewhere
``/ohif/``, ``/static/``, ``/docs``   browsers' programs: with none there is no other origin to trust
``/auth/``                            hands passwords on to another server; the token replaces it
``POST /reload``                      throws the app away while it works
==================================== ====================================================================================

Who may ask at all: :mod:`.guard`.

Heavy routes run in a thread, one at a time: ``/info/`` answers while a network computes.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from monailabel.config import settings
from monailabel.endpoints import activelearning, datastore, infer, train
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelException
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.utils import tasks
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException

from . import requests_check as check
from .guard import TOKEN, Guard, refusal
from .requests_check import BadRequest, Rule
from .uploads import judge_image, take_label

MAX_JSON = 2**16
HELLO = "MONAI Label. Give this address to the MONAI Label module of 3D Slicer; /info/ says what is served.\n"

logger = logging.getLogger(__name__)
_computing = threading.Lock()  # networks, and ITK, which changes the working folder while it loads
_starting = threading.Lock()


# ---- what a request says -------------------------------------------------------------------------------------------
def query(**rules: Rule) -> Any:
    """A dependency: the query's parameters, no others than these."""

    def read(request: Request) -> dict[str, str]:
        return check.checked(dict(request.query_params), rules, "query")

    return Depends(read)


async def body(request: Request) -> dict[str, Any]:
    """A JSON object, or nothing."""
    if int(request.headers.get("content-length", 0)) > MAX_JSON:
        raise BadRequest(
            f"found more than {MAX_JSON} bytes of parameters, expected a few. Leave out what is not a parameter", 413
        )
    return _json(await request.body(), "body")


async def form(request: Request) -> AsyncIterator[FormData]:
    """Fields and at most one file."""
    async with request.form(max_files=1, max_fields=4, max_part_size=MAX_JSON) as fields:
        yield fields


def params(fields: FormData, file: str = "") -> dict[str, Any]:
    """The JSON object in the field ``params``; no fields beside it and the ``file``."""
    known = {"params": Rule("text, a JSON object", lambda value: isinstance(value, str))}
    if file:
        known[file] = Rule("a file", lambda value: isinstance(value, UploadFile))
    check.checked(dict(fields), known, "form")
    return _json(str(fields.get("params", "")), "params")


def upload(fields: FormData, file: str) -> UploadFile:
    found = fields.get(file)
    if not isinstance(found, UploadFile):
        raise BadRequest(f"form: no {file}, expected a file. Send it as multipart/form-data")
    return found


def _json(text: str | bytes, where: str) -> Any:
    try:
        found = json.loads(text) if text.strip() else None
    except (ValueError, RecursionError) as error:
        raise BadRequest(
            f"{where} is not JSON ({str(error)[:80]}), expected an object of parameters. Correct it"
        ) from error
    return {} if found is None else found


Json = Annotated[dict[str, Any], Depends(body)]
Form = Annotated[FormData, Depends(form)]
Query = dict[str, str]


# ---- what goes wrong -----------------------------------------------------------------------------------------------
@contextmanager
def errors_as_replies() -> Iterator[None]:
    """Errors of the app as replies: what a user can mend 400, what is not there 404, a bug 500; a sentence each."""
    try:
        yield
    except (HTTPException, BadRequest):
        raise
    except (ImageNotFoundException, LabelNotFoundException) as error:
        raise BadRequest(error.msg, 404) from error
    except Exception as error:
        if sentence := _users_error(error):
            raise BadRequest(sentence) from error
        if isinstance(error, MONAILabelException):
            raise BadRequest(error.msg) from error
        logger.exception("A request failed")
        raise BadRequest(
            f"{type(error).__name__}: {str(error)[:200] or 'no more is known'}. See the server's log", 500
        ) from error


def _users_error(error: BaseException | None) -> str:
    """The text of the UserError that is the cause; by name, for each bundle has its own copy of the class."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if any(kind.__name__ == "UserError" for kind in type(error).__mro__):
            return str(error)
        error = error.__cause__ or error.__context__
    return ""


# ---- what is answered ----------------------------------------------------------------------------------------------
@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    instance = app_instance()
    instance.server_mode(True)
    instance.on_init_complete()
    yield


service = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)


@service.exception_handler(BadRequest)
def refuse(_: Request, error: BadRequest) -> JSONResponse:
    return refusal(error.status, str(error))


@service.exception_handler(StarletteHTTPException)
def refuse_by_status(request: Request, error: StarletteHTTPException) -> JSONResponse:
    if error.status_code == 405 or error.detail == "Not Found":
        return refusal(
            404,
            f"{request.method} {request.url.path[:200]} is not something that this server does. annotate/server.py lists why",
        )
    return refusal(error.status_code, str(error.detail))


@service.get("/")
def hello() -> PlainTextResponse:
    return PlainTextResponse(HELLO)


@service.get("/info/")
def info(_: Annotated[Query, query()]) -> Any:
    with errors_as_replies():
        return app_instance().info()


@service.post("/activelearning/{strategy}")
def next_sample(strategy: str, given: Json, _: Annotated[Query, query()]) -> Any:
    check.existing(strategy, app_instance().info()["strategies"], "strategy")
    check.checked(given, check.CLIENT, "next sample")
    with _computing, errors_as_replies():
        return activelearning.sample(strategy, given, "annotator")


@service.post("/infer/{model}")
def run_inference(
    model: str,
    background: BackgroundTasks,
    fields: Form,
    asked: Annotated[Query, query(image=check.NAME, output=check.one_of(("image", "json", "all")))],
) -> Any:
    instance = app_instance()
    image = _image(asked.get("image", ""))
    known = instance.info()
    check.existing(model, {**known["trainers"], **known["models"]}, "model")
    config = known["models"].get(model, {}).get("config", {})
    given = check.checked(params(fields), check.infer_rules(config), "infer")
    with _computing, errors_as_replies():
        # the path of the file, not its name: a name is first sought in the server's working folder
        result = instance.infer({"model": model, "image": instance.datastore().get_image_uri(image), **given})
        return infer.send_response(instance.datastore(), result, asked.get("output"), background)


@service.get("/train/")
def train_status(asked: Annotated[Query, query(all=check.WORDED_TRUTH, check_if_running=check.WORDED_TRUTH)]) -> Any:
    return train.status(asked.get("all") == "true", asked.get("check_if_running") == "true")


@service.post("/train/{model}")
def start_training(model: str, given: Json, _: Annotated[Query, query()]) -> Any:
    trainers = app_instance().info()["trainers"]
    check.existing(model, trainers, "model")
    check.checked(given, check.train_rules(trainers[model].get("config", {})), "train")
    with _starting, errors_as_replies():
        if any(task["status"] in ("SUBMITTED", "RUNNING") for task in tasks("train")):
            raise BadRequest("a training is running. Wait for its end, or stop it", 429)
        return train.run_model(model, given)


@service.delete("/train/")
def stop_training(_: Annotated[Query, query()]) -> Any:
    with _starting, errors_as_replies():
        return train.stop()


@service.get("/datastore/")
def list_datastore(asked: Annotated[Query, query(output=check.one_of(("all", "stats", "train")))]) -> Any:
    with errors_as_replies():
        return datastore.datastore(asked.get("output"))


@service.put("/datastore/")
@service.put("/datastore/image")
def add_image(fields: Form, asked: Annotated[Query, query(image=check.NAME)]) -> Any:
    given, file = check.checked(params(fields, "file"), check.CLIENT, "image"), upload(fields, "file")
    suffix = check.file_suffix(file.filename, _image_suffixes(), "image")
    name = asked.get("image") or Path(str(file.filename)).name.removesuffix(suffix)
    store = app_instance().datastore()
    check.new_image(name, store.list_images())
    with _received(file, f"{name}{suffix}") as path, _computing, errors_as_replies():
        judge_image(path, app_instance().served)
        check.new_image(name, store.list_images())  # somebody else's may have come meanwhile
        if os.path.lexists(Path(settings.MONAI_LABEL_STUDIES) / path.name):
            raise BadRequest(
                f"the study has a file {path.name}, and no file is overwritten. Send it under another name", 409
            )
        return {"image": store.add_image(name, str(path), given)}


@service.head("/datastore/image")
@service.get("/datastore/image")
def download_image(asked: Annotated[Query, query(image=check.NAME)]) -> Any:
    return _file(app_instance().datastore().get_image_uri(_image(asked.get("image", ""))))


@service.get("/datastore/image/info")
def image_info(asked: Annotated[Query, query(image=check.NAME)]) -> Any:
    return app_instance().datastore().get_image_info(_image(asked.get("image", "")))


@service.put("/datastore/label")
def save_label(fields: Form, asked: Annotated[Query, query(image=check.NAME, tag=check.TAG)]) -> Any:
    instance = app_instance()
    image = _image(asked.get("image", ""))
    served = instance.served
    given = check.checked(params(fields, "label"), check.label_rules(list(served.segments)), "label")
    file = upload(fields, "label")
    suffix = check.file_suffix(file.filename, check.LABEL_SUFFIXES, "label")
    with _received(file, f"{image}{suffix}") as path, _computing, errors_as_replies():
        take_label(path, Path(instance.datastore().get_image_uri(image)), served, given.get("label_info") or ())
        place = Path(settings.MONAI_LABEL_STUDIES) / "labels/final" / path.name
        if place.is_symlink():  # the label goes into the study, not to where a link of the study leads
            place.unlink()
        label = instance.datastore().save_label(image, str(path), "final", given)
        for other in check.LABEL_SUFFIXES:  # an earlier one in another form would come back when the index is made anew
            if other != suffix:
                place.with_name(f"{image}{other}").unlink(missing_ok=True)
        return {**(instance.on_save_label(image, label) or {}), "image": image, "label": label}


@service.head("/datastore/label")
@service.get("/datastore/label")
def download_label(asked: Annotated[Query, query(label=check.NAME, tag=check.KNOWN_TAG)]) -> Any:
    return _file(app_instance().datastore().get_label_uri(_image(asked.get("label", "")), asked.get("tag", "final")))


@service.get("/datastore/label/info")
def label_info(asked: Annotated[Query, query(label=check.NAME, tag=check.KNOWN_TAG)]) -> Any:
    return app_instance().datastore().get_label_info(_image(asked.get("label", "")), asked.get("tag", "final"))


# ---- files ---------------------------------------------------------------------------------------------------------
def _image(name: str) -> str:
    return check.existing(name, app_instance().datastore().list_images(), "image")


def _file(path: str) -> FileResponse:
    if not os.path.isfile(path):
        raise BadRequest("there is no such file. See /datastore/?output=all", 404)
    return FileResponse(path, media_type="application/octet-stream", filename=os.path.basename(path))


def _image_suffixes() -> list[str]:
    """Those that are read here and that the datastore lists."""
    return [suffix for suffix in check.SUFFIXES if f"*{suffix}" in settings.MONAI_LABEL_DATASTORE_FILE_EXT]


@contextmanager
def _received(upload: UploadFile, name: str) -> Iterator[Path]:
    """The file that was sent, on disk under a name of ours, until it was used."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        with path.open("wb") as file:
            shutil.copyfileobj(upload.file, file)
        yield path


app = Guard(service, os.environ.get(TOKEN, ""))
