"""The two decoders of JPEG files: the same pixels and the same errors, and a refusal where a build of turbo differs."""

from __future__ import annotations

import io
import types

import numpy as np
import pytest
from PIL import Image

from densebench.datasets.io import decoding
from densebench.datasets.io.decoding import read_image, use_decoder, used_decoder
from densebench.datasets.io.loader import Samples, make_loader
from densebench.errors import UserError


def picture(size=(75, 61), seed=0):
    """A picture with smooth and sharp parts."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size)


def pillow(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def module(monkeypatch):
    """Puts a stand-in for simplejpeg in its place, by its function `decode_jpeg`; Pillow decodes again afterwards."""

    def put(decode):
        made = types.ModuleType("simplejpeg")
        made.decode_jpeg = decode
        monkeypatch.setitem(__import__("sys").modules, "simplejpeg", made)
        fresh()

    def fresh():
        for value in vars(decoding).values():  # what was found of another build is forgotten
            getattr(value, "cache_clear", lambda: None)()

    yield put
    use_decoder("pillow")
    fresh()


@pytest.fixture
def counted(module):
    """A turbo that is Pillow, and counts what it decodes."""
    seen = []

    def decode(content, colours):
        assert colours == "RGB"
        seen.append(len(content))
        return pillow(content)

    module(decode)
    use_decoder("turbo")
    seen.clear()
    return seen


FILES = {
    "jpg": ("JPEG", picture(), 1),
    "grey": ("JPEG", picture().convert("L"), 0),
    "cmyk": ("JPEG", picture().convert("CMYK"), 0),
    "png": ("PNG", picture(), 0),
}


@pytest.mark.parametrize("name", FILES)
def test_turbo_decodes_jpeg_files_in_colour_and_pillow_all_others(name, counted, tmp_path):
    kind, image, times = FILES[name]
    path = tmp_path / "a"
    image.save(path, kind)
    assert np.array_equal(np.asarray(read_image(path)), pillow(path.read_bytes()))
    assert len(counted) == times


def test_the_decoder_is_pillow_unless_another_is_asked_for(counted, tmp_path):
    picture().save(tmp_path / "a.jpg")
    use_decoder("pillow")
    read_image(tmp_path / "a.jpg")
    assert not counted and used_decoder() == "pillow"


def test_a_build_that_gives_other_pixels_is_refused(module):
    module(lambda content, colours: pillow(content) ^ 1)
    with pytest.raises(UserError, match="--decoder turbo: simplejpeg decodes other pixels than Pillow here"):
        use_decoder("turbo")
    assert used_decoder() == "pillow"


def test_what_turbo_refuses_is_what_pillow_says_of_it(counted, module, tmp_path):
    def strict(content, colours):
        if len(content) == broken.stat().st_size:
            raise ValueError("premature end")
        return pillow(content)

    broken = tmp_path / "a.jpg"
    picture().save(broken)
    broken.write_bytes(broken.read_bytes()[:900])
    with pytest.raises(UserError) as expected:
        use_decoder("pillow")
        read_image(broken)
    module(strict)
    use_decoder("turbo")
    with pytest.raises(UserError) as caught:
        read_image(broken)
    assert str(caught.value) == str(expected.value) and str(broken) in str(caught.value)


def test_turbo_that_is_not_installed_is_one_line_with_the_command_that_installs_it(module, monkeypatch):
    module(None)
    monkeypatch.delitem(__import__("sys").modules, "simplejpeg")
    monkeypatch.setattr("densebench.extras.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--decoder turbo needs simplejpeg, .*pip install 'densebench\[fast\]'"):
        use_decoder("turbo")


class Decoders(Samples):
    """The decoder of the process that is asked."""

    def sample(self, key):
        return used_decoder()

    def __len__(self):
        return 1


def test_a_loader_tells_its_processes_which_decoder_to_use(counted):
    start = make_loader(Decoders(), list, 0, pin=False).worker_init_fn
    use_decoder("pillow")
    start(0)
    assert used_decoder() == "turbo"


VARIANTS = [
    {"quality": quality, "subsampling": subsampling, "progressive": progressive}
    for quality in (20, 95) for subsampling in (0, 1, 2) for progressive in (False, True)
]  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_simplejpeg_gives_the_pixels_of_pillow(variant, module, tmp_path):
    simplejpeg = pytest.importorskip("simplejpeg")
    for size in ((1, 1), (7, 300), (75, 61), (128, 96)):
        stream = io.BytesIO()
        picture(size).save(stream, "JPEG", **variant)
        assert np.array_equal(simplejpeg.decode_jpeg(stream.getvalue(), "RGB"), pillow(stream.getvalue()))


@pytest.mark.slow
def test_simplejpeg_gives_the_pixels_of_pillow_for_photographs(shared_data, module):
    pytest.importorskip("simplejpeg")
    files = sorted(shared_data.rglob("*.jpg"))[::20]
    use_decoder("turbo")
    for path in files:
        assert np.array_equal(np.asarray(read_image(path)), pillow(path.read_bytes()))
    assert len(files) > 100
