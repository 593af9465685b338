"""Every parameter of a request is known by name and type, or the request is refused in words."""

import pytest
from saying import says

from annotate import requests_check as check
from annotate.requests_check import BadRequest

CLASSES = ["background", "anterior", "posterior"]
TRAIN = check.train_rules({"max_epochs": 5, "pretrained": True})
INFER = check.infer_rules({"device": ["cpu", "cuda:0"], "model_filename": ["model.pt", "student.pt"]})


def refused(call, *arguments, status=400):
    with pytest.raises(BadRequest) as caught:
        call(*arguments)
    assert caught.value.status == status
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------------ parameters
@pytest.mark.parametrize(
    "given", [{}, {"max_epochs": 1}, {"max_epochs": 10_000, "pretrained": False, "client_id": None}]
)
def test_what_is_allowed_comes_back_unchanged(given):
    assert check.checked(given, TRAIN, "train") == given


@pytest.mark.parametrize(
    "value", [0, 10_001, -1, True, 1.0, "1", "$open('F','w')", "@steps", None, [1], {"a": 1}, float("nan")]
)
def test_epochs_are_a_whole_number_in_its_range_and_nothing_else(value):
    said = refused(check.checked, {"max_epochs": value}, TRAIN, "train")
    says(said, f"train: parameter max_epochs is {value!r},", "expected a whole number from 1 to 10000", "Correct it")


@pytest.mark.parametrize("value", ["false", "true", 0, 1, None, "$True"])
def test_a_truth_is_a_boolean(value):
    said = refused(check.checked, {"pretrained": value}, TRAIN, "train")
    assert said == f"train: parameter pretrained is {value!r}, expected true or false, without quotes. Correct it"


# every parameter of MONAI Label's own tasks that is not offered, and what would overwrite a request's own keys
STOCK = "model run_id val_split multi_gpu gpus tracking tracking_uri bundle_path force_multi_gpu local_rank device"


@pytest.mark.parametrize("name", [*STOCK.split(), "model_filename", "$x", "", "train#dataset"])
def test_a_training_has_no_other_parameter(name):
    said = refused(check.checked, {name: "x"}, TRAIN, "train")
    assert said == f"train: parameter {name!r} is not known, expected max_epochs, pretrained, client_id. Leave it out"


@pytest.mark.parametrize(
    "name", ["image", "model", "save_label", "label_tag", "logging", "skip_writer", "result_write_to_file", "session"]
)
def test_an_inference_has_no_parameter_that_moves_files(name):
    assert f"parameter {name!r} is not known" in refused(check.checked, {name: "x"}, INFER, "infer")


def test_a_misspelt_parameter_names_the_nearest():
    assert "'max_epoch' is not known (did you mean 'max_epochs'?)" in refused(
        check.checked, {"max_epoch": 1}, TRAIN, "train"
    )


def test_all_faults_come_in_one_sentence():
    said = refused(check.checked, {"max_epochs": 0, "x": 1}, TRAIN, "train")
    assert "max_epochs is 0" in said
    assert "; parameter 'x' is not known" in said
    assert "\n" not in said


@pytest.mark.parametrize("given", [[], "max_epochs", 1, None])
def test_parameters_are_an_object(given):
    assert refused(check.checked, given, TRAIN, "train").startswith(f"train: found {given!r}, expected a JSON object")


@pytest.mark.parametrize("given", [{"device": "cpu", "model_filename": "student.pt"},
                                   {"result_extension": ".nrrd", "result_dtype": "uint8"},
                                   {"result_compress": True, "client_id": "user-xyz"}])  # fmt: skip
def test_what_slicer_asks_of_an_inference_is_allowed(given):
    assert check.checked(given, INFER, "infer") == given


@pytest.mark.parametrize("name", ["../../x.pt", "/tmp/x.pt", "other.pt", "", ["model.pt"], None, "$print(1)"])
def test_weights_are_one_of_those_that_are_offered(name):
    said = refused(check.checked, {"model_filename": name}, INFER, "infer")
    assert said == f"infer: parameter model_filename is {name!r}, expected one of model.pt, student.pt. Correct it"


@pytest.mark.parametrize("value", [".py", "/../x.nii.gz", ".nii.gz/../../x", "nii.gz"])
def test_a_result_has_one_of_the_known_suffixes(value):
    assert "expected one of .nii.gz, .nii, .nrrd, .png" in refused(
        check.checked, {"result_extension": value}, INFER, "infer"
    )


def test_what_is_repeated_of_a_request_is_short_and_on_one_line():
    said = refused(check.checked, {"max_epochs": "a\nb" * 100_000}, TRAIN, "train")
    assert len(said) < 300
    assert "\n" not in said


# ----------------------------------------------------------------------------------------------------------------- names
@pytest.mark.parametrize("name", ["p01", "la_017", "Müller 3", "scan.v2", "a-b+c", "心臓"])
def test_plain_names(name):
    assert check.is_plain(name)
    assert check.new_image(name, []) == name


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", "/etc/passwd", ".hidden", "a..b", "a\nb", "a\0b",
                                  "$x", "@x", "%x", "a:b", "~", "x" * 121, " a", "-rf", None, 1, ["p01"], {"a": 1}])  # fmt: skip
def test_names_that_lead_elsewhere(name):
    assert not check.is_plain(name)
    assert "expected a plain name" in refused(check.new_image, name, [])


def test_an_image_is_one_of_those_that_are_there():
    assert check.existing("p01", ["p01", "p02"], "image") == "p01"
    said = refused(check.existing, "p0", ["p01"], "image", status=404)
    says(said, "no image 'p0' (did you mean 'p01'?)", "Take it from /info/ or /datastore/")
    assert "expected a plain name" in refused(check.existing, "../p01", ["p01"], "image")


def test_a_file_that_lies_in_the_study_is_found_whatever_its_name():
    assert check.existing("scan (2)", ["scan (2)"], "image") == "scan (2)"


def test_no_scan_is_overwritten_and_no_suffix_doubled():
    assert (
        refused(check.new_image, "p01", ["p01"], status=409)
        == "image 'p01' exists, and no scan is overwritten. Send it under another name"
    )
    assert "without suffix" in refused(check.new_image, "p01.nii.gz", [])


@pytest.mark.parametrize(
    ("name", "suffix"), [("/home/me/p01.nii.gz", ".nii.gz"), ("P01.NII", ".nii"), ("a.b.nrrd", ".nrrd")]
)
def test_a_file_is_known_by_its_suffix(name, suffix):
    assert check.file_suffix(name, check.SUFFIXES, "label") == suffix


@pytest.mark.parametrize("name", ["x.py", "x.nii.gz.exe", "x", "", None, "x.svs", "x.xml", "nii"])
def test_other_files_are_refused(name):
    assert "expected a name that ends in .nii.gz" in refused(check.file_suffix, name, check.SUFFIXES, "label")


# -------------------------------------------------------------------------------------------------------------- segments
LABEL = check.label_rules(CLASSES)


@pytest.mark.parametrize("segments", [
    [],
    [{"name": "anterior", "idx": 1}, {"name": "posterior", "idx": 2}],
    [{"name": "Anterior", "idx": 1}],  # Slicer shows names in lower case
    [{"name": "posterior", "idx": 2}, {"name": "my notes", "idx": 3}],  # its voxels are judged by their values
])  # fmt: skip
def test_segments_in_the_order_of_the_classes(segments):
    assert check.checked({"label_info": segments}, LABEL, "label") == {"label_info": segments}


def test_more_than_256_segments_are_refused():
    segments = [{"name": "", "idx": number} for number in range(257)]
    assert "a list of at most 256 segments" in refused(check.checked, {"label_info": segments}, LABEL, "label")
    check.checked({"label_info": segments[:256]}, LABEL, "label")


@pytest.mark.parametrize("segments", [
    [{"name": "posterior", "idx": 1}],  # the annotator deleted the first segment: voxels of posterior have the value 1
    [{"name": "posterior", "idx": 1}, {"name": "anterior", "idx": 2}],
    [{"name": "anterior", "idx": "1"}], [{"name": "anterior", "idx": True}], [{"name": ["anterior"], "idx": 1}],
    [{"name": "anterior"}], [{"name": "anterior", "idx": 1, "path": "/x"}], ["anterior"], {"anterior": 1}, None,
    [{"name": "x" * 121, "idx": 1}], [{"name": "x", "idx": 1}] * 257,
])  # fmt: skip
def test_a_segment_that_would_become_another_class_is_refused(segments):
    said = refused(check.checked, {"label_info": segments}, LABEL, "label")
    assert "1 anterior, 2 posterior (order the segments so, an absent one empty)" in said
