"""The page of a run, made from whatever its folder holds."""

import html
import json
import re

import pytest
from run_folders import LOG, RUN, made

from densebench.errors import Stopped, UserError
from densebench.training.page import LivePage, write_page

PICTURES = ("clusters-00000008.png", "clusters-100000000.png", "clusters-00000024.png", "matches-00000024.png")


def page(folder, *given):
    return write_page(folder, *given).read_text(encoding="utf-8")


def facts(text):
    """Return the facts at the top by name."""
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))


def charts(text):
    return [html.unescape(title) for title in re.findall(r"<figcaption>([^<]*)</figcaption><svg", text)]


def slider(text):
    """Return what the script of the slider gets."""
    return json.loads(re.search(r"const STEPS = (.*);", text)[1])


def test_it_says_how_far_the_run_is(tmp_path):
    found = facts(page(made(tmp_path / "run"), "running"))
    assert found["step"] == "24 of 32"
    assert found["epoch"] == "3 of 4"
    assert found["loss"] == "7.5"
    assert found["time left"] == "0:03"  # 8 steps of 16 images at 40 a second


def test_it_renews_itself_only_while_the_run_goes_on(tmp_path):
    folder = made(tmp_path / "run")
    assert 'http-equiv="refresh"' in page(folder, "running")
    for state in ("stopped", "finished", "failed", None):
        text = page(folder, state)
        assert 'http-equiv="refresh"' not in text
        assert "const REFRESH = 0," in text
        assert "time left" not in facts(text)


def test_a_run_that_is_not_complete_is_called_so_and_names_how_to_resume(tmp_path):
    text = page(made(tmp_path / "run"))
    assert "unfinished" in text
    assert "--resume" in text


def test_the_losses_are_one_chart_and_the_ratio_is_one(tmp_path):
    found = charts(page(made(tmp_path / "run")))
    assert found[:4] == ["Losses", "Probe: mIoU", "Bootstrapping ratio", "Learning rate"]


def test_without_a_ratio_there_is_no_chart_of_it(tmp_path):
    folder = made(tmp_path / "run", log="step,epoch,loss\n1,1,2.5\n")
    assert charts(page(folder)) == ["Losses"]


def test_the_best_probe_is_marked(tmp_path):
    folder = made(tmp_path / "run")
    (folder / "best").mkdir()
    (folder / "best" / "probe.json").write_text('{"miou": 30.25, "epoch": 2}')
    text = page(folder)
    assert re.findall(r'<tr class="best"><td class="number">(.*?)</td><td class="number">(.*?)</td>', text) == [("2", "30.25")]
    assert text.count('r="8"') == 1


def test_pictures_are_sorted_by_the_number_of_the_step(tmp_path):
    found = slider(page(made(tmp_path / "run", pictures=PICTURES)))
    assert [each["step"] for each in found] == [8, 24, 100_000_000]
    assert [each["name"] for each in found][:2] == ["step 8, epoch 1", "step 24, epoch 3"]


def test_the_newest_picture_of_each_kind_shows_and_links_lead_to_all(tmp_path):
    text = page(made(tmp_path / "run", pictures=PICTURES))
    assert re.findall(r'<img src="([^"]+)"', text) == ["pictures/clusters-100000000.png", "pictures/matches-00000024.png"]
    assert {f"pictures/{name}" for name in PICTURES} == set(re.findall(r'<a href="(pictures/[^"]+)"', text))


def test_a_row_that_was_not_written_to_its_end_is_left_out(tmp_path):
    whole, cut = made(tmp_path / "a"), made(tmp_path / "b", log=LOG + "32,4,6.5,3")
    assert facts(page(cut)) == facts(page(whole))


@pytest.mark.parametrize(
    "log", ["", "step", "step\n", "\0\0\n", "a,b\n1,2\n", 'step,"loss\n1,2\n', "step,loss\n1,2,3,4\n2,x\n", "step,loss\n-1,nan\n"]
)
def test_a_damaged_log_leaves_a_page_that_says_so(tmp_path, log):
    text = page(made(tmp_path / "run", log=log))
    assert "log.csv holds no values" in text or charts(text)
    assert "cribo/tiny" in text


def test_damaged_rows_do_not_hide_the_others(tmp_path):
    folder = made(tmp_path / "run", log="step,epoch,loss\n1,1,3\n2,2,2,2,2,2\nx,y,z\n3,3,1.5\n")
    assert facts(page(folder))["loss"] == "1.5"


def test_the_request_is_shown_as_it_was_given(tmp_path):
    run = {**RUN, "settings": {**RUN["settings"], "rounds": 1, "cycle": True, "objects": 0, "scale": [0.25, 1.0]}}
    text = page(made(tmp_path / "run", run=run))
    rows = dict(re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', text))
    assert (rows["rounds"], rows["cycle"], rows["objects"], rows["scale"]) == ("1", "yes", "0", "0.25, 1.0")
    assert (rows["seed"], rows["init"], rows["steps"]) == ("0", "random weights", "none")


@pytest.mark.parametrize("run", [None, "", "{", "[]", '{"schema": 1}', json.dumps({**RUN, "method": 7})])
def test_without_a_whole_request_the_curves_are_still_there(tmp_path, run):
    text = page(made(tmp_path / "run", run=run))
    assert "run.json is missing or damaged" in text
    assert charts(text)[0] == "Losses"


def test_an_empty_folder_has_a_page(tmp_path):
    assert "log.csv cannot be read" in page(made(tmp_path / "run", log=None, run=None))


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        write_page(tmp_path / "gone")


def test_nothing_that_a_file_says_becomes_part_of_the_page(tmp_path):
    evil = "</script><script>alert(1)</script><b x='\">"
    run = {**RUN, "method": evil, "command": evil, "settings": {**RUN["settings"], evil: [evil]}}
    name = "<b onload=alert(1)>'\"&%-00000008.png"
    folder = made(tmp_path / "run", log=f"step,epoch,{evil}\n1,1,2\n", run=run, pictures=(name,))
    (folder / "warnings.txt").write_text(evil)
    text = page(folder, "failed", evil)
    assert "<script>alert" not in text
    assert "<b " not in text
    assert text.count("<script>") == text.count("</script>") == 1
    assert "pictures/%3Cb%20onload" in text


def test_the_same_files_give_the_same_page(tmp_path):
    folder = made(tmp_path / "run", pictures=PICTURES)
    assert page(folder) == page(folder)


def test_a_log_of_many_rows_gives_a_page_of_usual_size(tmp_path):
    rows = "".join(f"{step},{step / 100},{step % 13}\n" for step in range(1, 30_001))
    text = page(made(tmp_path / "run", log="step,epoch,loss\n" + rows))
    assert len(text) < 100_000
    assert facts(text)["step"].startswith("30,000 of")


def test_warnings_are_shown_once_each_newest_first(tmp_path):
    folder = made(tmp_path / "run")
    (folder / "warnings.txt").write_text("step 3: a\nstep 4: b\nstep 3: a\n")
    assert re.findall(r'<p class="note">(.*?)</p>', page(folder)) == ["step 4: b", "step 3: a"]


class TestLivePage:
    def test_it_is_not_written_at_every_step(self, tmp_path):
        folder = made(tmp_path / "run")
        live = LivePage(folder)
        live.renew()
        (folder / "index.html").unlink()
        live.renew()
        assert not (folder / "index.html").exists()

    @pytest.mark.parametrize(
        ("error", "word", "said"),
        [
            (None, "finished", "complete"),
            (Stopped("stopped after step 7"), "stopped", "stopped after step 7"),
            (UserError("not finite"), "failed", "not finite"),
            (ValueError(), "failed", "ValueError"),
        ],
    )
    def test_the_last_page_says_how_the_run_ended(self, tmp_path, error, word, said):
        folder = made(tmp_path / "run")
        LivePage(folder).close(error)
        text = (folder / "index.html").read_text()
        assert f'class="state {word}"' in text
        assert said in text

    def test_a_page_that_cannot_be_written_warns_once_and_raises_nothing(self, tmp_path, capsys):
        folder = made(tmp_path / "run")
        (folder / "index.html").mkdir()
        live = LivePage(folder)
        live.renew()
        live.close(None)
        assert capsys.readouterr().err.count("cannot be written") == 1
