"""A mistake planted in a protocol is found by the check that is made for it."""

from __future__ import annotations

import pytest
from planted import first_failed, plugin
from tiers import late

from densebench import catalog
from densebench.conformance.protocols import check_protocol

VALUE = "100 * right / total"
MISTAKES = {
    "version": ("version", ("ClassVar[int] = 1", "ClassVar[int] = 0"), "raise it when the numbers change"),
    "preset": ("presets", ('{"image_size": 224}', '{"image_size": 2}'), "the preset large cannot be built"),
    "headline is no pair": ("headline", ('"metric": "accuracy", ', ""), 'return {"metric": ..., "variant": ...}'),
    "headline of another name": ("runs", ('"metric": "accuracy"', '"metric": "miou"'), "yields accuracy (patches); yield"),
    "no direction": ("runs", (', direction="higher"', ""), "does not say which values are better"),
    "no digits": ("runs", ('"%", {"share"', '"m", {"share"'), "digits None"),
    "a kind of data set": ("runs", ("    version:", '    takes = "labels"\n    version:'), "takes is 'labels'"),
    "a point too few": ("points", ("for share in self.shares]", "for share in self.shares[:1]]"), "points() does not name"),
    "a point too many": ("points", ("in self.shares]", "in (*self.shares, 9)]"), "(share 9), where nothing is scored"),
    "above 100": ("values", (VALUE, "200 * right / total"), "not between 0 and 100"),
    "settings": (
        "record",
        ("    def headline", "    def settings(self, dataset):\n        return {}\n\n    def headline"),
        "settings() lacks image_size",
    ),
    "labels read off by one": ("oracle", ("== labels).sum()", "== (labels + 1) % 5).sum()"), "expected above 90"),
    "scored labels leak": ("noise", ("== labels).sum()", ">= -1).sum()"), "scored labels reach the prediction"),
    "void is class 0": ("void", ("labels != dataset.ignore_index", "labels.remainder_(255) >= 0"), "half is unlabelled"),
    "unseeded": ("repeats", (VALUE, f"{VALUE} * (1 - torch.rand(()).item() / 50)"), "the same run twice gives"),
    "batch size": ("batch size", (VALUE, f"{VALUE} - self.batch_size / 4"), "must not depend on its neighbours"),
    "runtime": ("runtime", (VALUE, f"{VALUE} - self.chunk / 1e4"), "--chunk 8193 gives"),
    "scored again": ("resume", (' if (("share", share),) not in run.known', ""), "is scored again"),
    "a point that another one needs": (
        "resume",
        (VALUE, f"{VALUE} - (share > 1) * len(run.known)"),
        "a straight run and one resumed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", late(MISTAKES, *list(MISTAKES)[::4]))
def test_a_planted_mistake_is_found_by_its_check(mistake, tmp_path):
    check, change, message = MISTAKES[mistake]
    found, said = first_failed(check_protocol(plugin(tmp_path, "protocol", change)))
    assert found == check, said
    assert message in said


def test_the_protocol_that_is_written_passes(tmp_path):
    checks = []
    for check in check_protocol(plugin(tmp_path, "protocol")):
        checks.append(check)
        if check.name == "resume":  # the last one starts processes
            break
    assert len(checks) == 14
    assert all(check.passed for check in checks), checks


def test_a_message_names_what_was_seen_and_expected(tmp_path):
    _, said = first_failed(check_protocol(plugin(tmp_path, "protocol", MISTAKES["scored labels leak"][1])))
    assert said.startswith("accuracy (patches) at share 1: 100 % for features that know nothing; chance is below 40")


@pytest.mark.parametrize(
    ("value", "given", "passed"),
    [
        ("60", {}, None),
        pytest.param("60", {"epochs": 9}, False, marks=pytest.mark.slow),
        pytest.param("20", {}, False, marks=pytest.mark.slow),
    ],
)
def test_a_head_that_learns_for_epochs_may_be_half_right_after_those_of_few_images(value, given, passed, tmp_path):
    size = "    image_size: int"
    epochs = (size, f'    epochs: int = setting(1, "passes over the training images", minimum=1)\n{size}')
    path = plugin(tmp_path, "protocol", (VALUE, f"{value} * right / total"), epochs)
    [oracle] = [check for check in check_protocol(path, given=given) if check.name == "oracle"]
    assert oracle.passed is passed, oracle.message
    assert ("a larger --epochs shows more" in oracle.message) == (passed is None)


@pytest.mark.slow
def test_a_worker_that_changes_numbers_is_found(tmp_path):
    change = (VALUE, f"{VALUE} - (self.workers or 0)")
    found, said = first_failed(check_protocol(plugin(tmp_path, "protocol", change)))
    assert found == "workers", said


PARTS = [(name, part.presets[0]) for name, entry in catalog.entries("protocols").items() for part in entry.parts]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "preset"), PARTS, ids=lambda value: value)
def test_every_protocol_of_the_catalogue_conforms(name, preset):
    if catalog.load("protocols", name, preset).fine_tunes:
        pytest.skip("its checks train a network nine times, which takes minutes")
    checks = check_protocol(name, preset)
    failed = {each.name: each.message for each in checks if each.passed is False}
    assert failed == {}


@pytest.mark.parametrize("name", ["kmeans"])
def test_a_protocol_of_the_catalogue_sees_the_oracle_and_not_the_noise(name):
    outcome = {}
    for check in check_protocol(name, given={"image_size": 128, "restarts": 1}):
        outcome[check.name] = check.passed
        if check.name == "resume":
            break
    assert all(outcome.values()), outcome
