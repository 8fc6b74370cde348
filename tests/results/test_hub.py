"""Records pushed to a repository of the Hub and pulled from it, against a stand-in of its HTTP API."""

from __future__ import annotations

import io
import json
import re
import shutil

import pytest
from command_line import call
from hub_stand_in import TOKEN, blob, serving
from made_records import write
from PIL import Image

from densebench.errors import UserError
from densebench.results import record as records
from densebench.results.hub import Repository
from densebench.results.pulling import pull
from densebench.results.pushing import prepare, send

LAB = Repository("lab/scores")
ONE, TWO = {(1, 0): 40.0}, {(1, 1): 50.0}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no token"))
        yield running


def push(folder, **more):
    return send(prepare(LAB, folder, **more))


def ids(folder):
    return sorted(path.stem for path in (folder / "records").glob("*.json"))


def png(size=2):
    stream = io.BytesIO()
    Image.new("RGB", (size, size)).save(stream, "PNG")
    return stream.getvalue()


def test_a_new_repository_gets_records_tables_and_a_card_in_one_commit(hub, tmp_path):
    record = write(tmp_path, "ViT one", ONE)
    address = push(tmp_path)
    files = hub.newest("lab/scores")
    names = ["README.md", f"records/{record.id}.json", *(f"leaderboard.{form}" for form in ("csv", "html", "md"))]
    assert hub.sent == [sorted(names)] and address.startswith(f"{hub.endpoint}/datasets/lab/scores/commit/")
    assert files[f"records/{record.id}.json"] == record.path.read_bytes()
    card = files["README.md"].decode()
    assert card.startswith('---\npretty_name: "scores"\ntags:\n- densebench\n')
    assert files["leaderboard.md"].decode().strip() in card and "densebench pull hf:lab/scores" in card


def test_what_is_there_already_is_not_sent_again(hub, tmp_path):
    write(tmp_path, "one", ONE)
    push(tmp_path)
    assert push(tmp_path) is None and len(hub.sent) == 1
    two = write(tmp_path, "two", TWO)
    push(tmp_path)
    assert f"records/{two.id}.json" in hub.sent[1] and len([path for path in hub.sent[1] if "records/" in path]) == 1


def test_what_is_not_complete_stays_here(hub, tmp_path):
    record = write(tmp_path, "one", ONE)
    write(tmp_path, "the failed one", ONE, status="failed")
    write(tmp_path, "three", ONE).start({})
    write(tmp_path, "four", ONE).finish("complete", {"rehearsal": True})
    (tmp_path / "records" / "abcd.json").write_text("{")
    prepared = prepare(LAB, tmp_path)
    assert [path for path in prepared.files if "records/" in path] == [f"records/{record.id}.json"]
    assert len(prepared.left_out) == 4
    assert all("the failed one" not in content.decode() for content in prepared.files.values())


def test_pictures_go_along_on_request(hub, tmp_path):
    record = write(tmp_path, "one", ONE)
    (tmp_path / "pictures" / record.id).mkdir(parents=True)
    (tmp_path / "pictures" / record.id / "a.png").write_bytes(png())
    path = f"pictures/{record.id}/a.png"
    assert path not in prepare(LAB, tmp_path).files and path in prepare(LAB, tmp_path, pictures=True).files


def test_pictures_behind_a_link_stay_here(hub, tmp_path):
    record = write(tmp_path, "one", ONE)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "a.png").write_bytes(png())
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / record.id).symlink_to(tmp_path / "private")
    assert not any(path.startswith("pictures/") for path in prepare(LAB, tmp_path, pictures=True).files)


def test_preparing_sends_nothing(hub, tmp_path):
    write(tmp_path, "one", ONE)
    prepare(LAB, tmp_path)
    assert {method for method, _ in hub.requests} <= {"GET", "HEAD"} and hub.repositories == {}


def test_a_repository_with_other_records_or_scores_is_pulled_first(hub, tmp_path):
    write(tmp_path / "A", "one", ONE)
    push(tmp_path / "A")
    write(tmp_path / "B", "two", TWO)
    with pytest.raises(UserError, match=r"hf:lab/scores holds 1 records that .* lacks .*densebench pull hf:lab/scores"):
        push(tmp_path / "B")
    write(tmp_path / "B", "one", TWO)
    with pytest.raises(UserError, match="holds scores of record .* lacks; .*densebench pull"):
        push(tmp_path / "B")
    write(tmp_path / "B", "one", {(1, 0): 41.0})
    with pytest.raises(UserError, match=r"42\.0 in .* and 41\.0 in hf:lab/scores"):
        push(tmp_path / "B")
    assert len(hub.sent) == 1


def test_a_push_that_somebody_overtook_is_refused(hub, tmp_path):
    write(tmp_path, "one", ONE)
    push(tmp_path)
    write(tmp_path, "two", TWO)
    prepared = prepare(LAB, tmp_path)
    hub.commit("lab/scores", {"records/abcd.json": b""})
    with pytest.raises(UserError, match="has changed in the meantime"):
        send(prepared)


def test_a_pull_merges(hub, tmp_path):
    one = write(tmp_path / "A", "one", ONE)
    (tmp_path / "A" / "pictures" / one.id).mkdir(parents=True)
    (tmp_path / "A" / "pictures" / one.id / "a.png").write_bytes(png())
    push(tmp_path / "A", pictures=True)
    two = write(tmp_path / "B", "two", TWO)
    done = pull(LAB, tmp_path / "B")
    assert done.problems == [] and ids(tmp_path / "B") == sorted([one.id, two.id])
    assert (tmp_path / "B" / "records" / f"{one.id}.json").read_bytes() == one.path.read_bytes()
    assert (tmp_path / "B" / "pictures" / one.id / "a.png").read_bytes() == png()
    assert pull(LAB, tmp_path / "B").same == [one.id]
    push(tmp_path / "B")
    assert ids(tmp_path / "B") == sorted(path[8:-5] for path in hub.newest("lab/scores") if path.startswith("records/"))


def test_a_contradiction_is_named_and_settled(hub, tmp_path):
    record = write(tmp_path / "A", "one", ONE)
    push(tmp_path / "A")
    write(tmp_path / "B", "one", {(1, 0): 41.0})
    [line] = pull(LAB, tmp_path / "B").problems
    assert "40.0 in hf:lab/scores" in line and "41.0" in line and "--prefer hub or --prefer here" in line
    assert pull(LAB, tmp_path / "B", prefer="hub").problems == []
    [score] = [s for s in records.read(tmp_path / "B" / "records" / f"{record.id}.json")["scores"] if s["variant"] == "identity"]
    assert score["value"] == 40.0


def test_an_older_revision_can_be_pulled(hub, tmp_path):
    one = write(tmp_path / "A", "one", ONE)
    push(tmp_path / "A")
    commit = list(hub.repositories["lab/scores"])[-1]
    write(tmp_path / "A", "two", TWO)
    push(tmp_path / "A")
    pull(Repository("lab/scores", commit), tmp_path / "B")
    assert ids(tmp_path / "B") == [one.id]


def hostile(folder):
    """Return files of a repository of which one record alone is sound, and that record's id."""
    sound = write(folder / "sound", "sound", ONE)
    moved = write(folder / "moved", "moved", ONE).json()
    moved["dataset"]["digest"] = "another"
    grouped = {**write(folder / "grouped", "grouped", ONE).json(), "group": "abcd1234"}
    running = write(folder / "running", "running", ONE, status="failed").json()
    files = {f"records/{each['id']}.json": json.dumps(each).encode() for each in (sound.json(), moved, grouped, running)}
    files |= {
        "records/../../escaped.json": b"{}",
        "records/abcdef.json": b"{",
        "records/ABCDEF.json": b"{}",
        f"pictures/{sound.id}/good.png": png(),
        f"pictures/{sound.id}/page.png": b"<script>alert(1)</script>",
        f"pictures/{sound.id}/.hidden.png": png(),
        f"pictures/{sound.id}/page.html": b"<script>",
        "pictures/abcd1234/strange.png": png(),
        "leaderboard.html": b"<script>",
    }
    return files, sound.id


def test_of_a_hostile_repository_only_sound_files_come(hub, tmp_path):
    files, sound = hostile(tmp_path)
    hub.commit("lab/scores", files)
    done = pull(LAB, tmp_path / "into")
    found = sorted(str(path.relative_to(tmp_path / "into")) for path in (tmp_path / "into").rglob("*.*") if path.is_file())
    assert [path for path in found if ".lock" not in path] == [f"pictures/{sound}/good.png", f"records/{sound}.json"]
    assert len(done.problems) == 5 and not (tmp_path / "escaped.json").exists()
    fetched = [path for method, path in hub.requests if "/resolve/" in path]
    assert not any(".html" in path or "escaped" in path or "strange" in path for path in fetched)


def test_files_of_another_size_or_content_than_listed_are_refused(hub, tmp_path, monkeypatch):
    record = write(tmp_path / "A", "one", ONE)
    push(tmp_path / "A")
    hub.lies[f"records/{record.id}.json"] = 65 * 2**20
    with pytest.raises(UserError, match="holds no record"):
        pull(LAB, tmp_path / "B")
    hub.lies.clear()
    monkeypatch.setattr("hub_stand_in.blob", lambda content: blob(content + b" "))
    with pytest.raises(UserError, match="is not what the repository lists"):
        pull(LAB, tmp_path / "B")
    assert not (tmp_path / "B").exists()


def test_what_goes_wrong_is_one_line(hub, tmp_path, monkeypatch):
    write(tmp_path, "one", ONE)
    with pytest.raises(UserError, match="there is no data set repository hf:lab/scores"):
        pull(LAB, tmp_path / "B")
    monkeypatch.setenv("HF_TOKEN", "hf_reads")
    with pytest.raises(UserError, match="this token has no right"):
        push(tmp_path)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="there is no token; set HF_TOKEN"):
        push(tmp_path)
    hub.commit("lab/scores", {"README.md": b""})
    with pytest.raises(UserError, match="no such revision"):
        pull(Repository("lab/scores", "v9"), tmp_path / "B")
    with pytest.raises(UserError, match="holds no record of densebench"):
        pull(LAB, tmp_path / "B")
    hub.broken = True
    with pytest.raises(UserError, match="507"):
        pull(LAB, tmp_path / "B")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot be reached"):
        pull(LAB, tmp_path / "B")
    with pytest.raises(UserError, match="holds no complete record"):
        push(tmp_path / "empty")


@pytest.mark.parametrize("spec", ["lab/scores", "hf:lab", "hf:lab/../x", "hf:a/b/c", "hf:lab/scores@", "hf:-x/y", "hf:lab/x.git"])
def test_a_wrong_name_is_one_line(spec):
    with pytest.raises(UserError, match="names no repository; write hf:ORG/NAME"):
        Repository.read(spec)


def test_the_commands(hub, tmp_path):
    write(tmp_path / "results", "one", ONE)
    planned = call("push", "hf:lab/scores", "--dry-run", folder=tmp_path)
    said = r"5 files \(0\.0\d MB\) to send, 0 are there already; nothing was sent\n$"
    assert planned.status == 0 and re.search(said, planned.out)
    assert "README.md" in planned.out and hub.repositories == {}
    assert call("push", "hf:lab/scores", "--private", folder=tmp_path).out.startswith("hf:lab/scores: 5 files")
    assert hub.private == {"lab/scores"}
    assert "nothing to send" in call("push", "hf:lab/scores", folder=tmp_path).out
    shutil.rmtree(tmp_path / "results")
    assert call("pull", "hf:lab/scores", folder=tmp_path).out == "results: 1 new record, 0 changed, 0 as they were\n"
    assert "--prefer me: write hub or here" in call("pull", "hf:lab/scores", "--prefer", "me", folder=tmp_path).error
    assert "write hf:ORG/NAME" in call("push", "lab/scores", folder=tmp_path).error


def test_a_dry_run_without_the_network_counts_everything_as_new(hub, tmp_path, monkeypatch):
    write(tmp_path / "results", "one", ONE)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    done = call("push", "hf:lab/scores", "--dry-run", folder=tmp_path)
    assert done.status == 0 and "cannot be reached" in done.err and "5 files" in done.out
