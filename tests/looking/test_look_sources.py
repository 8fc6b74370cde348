"""What a look opens: folders, pictures, data sets, and which of their pictures are frames of a video."""

from __future__ import annotations

import pytest
from few_images import Few
from look_pictures import film, folder_of, in_memory, picture

from densebench.errors import UserError
from densebench.looking.opening import opened


def titles(found):
    return [found.images.title(index) for index in range(len(found.images))]


def test_label_maps_beside_pictures_are_no_pictures(tmp_path):
    folder_of(tmp_path / "JPEGImages" / "480p" / "one", 2)
    folder_of(tmp_path / "Annotations" / "480p" / "one", 2)
    found = opened(tmp_path)
    assert titles(found) == ["one/a0.png", "one/b1.png"]
    assert found.images.name == tmp_path.name


def test_one_file_is_one_picture(tmp_path):
    assert titles(opened(folder_of(tmp_path, 3) / "b1.png")) == ["b1.png"]


def test_pictures_in_memory_are_numbered():
    assert titles(opened([picture(0), picture(1)])) == ["picture 1", "picture 2"]


@pytest.mark.parametrize("source", [[], [1, 2], 3, None])
def test_what_is_no_picture_is_refused(source):
    with pytest.raises(UserError, match="look takes a folder, a picture, a data set, or a list of pictures"):
        opened(source)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no image"):
        opened(tmp_path)


def test_frames_of_a_video_are_found_by_their_names_and_pixels(tmp_path):
    film(tmp_path / "film")
    folder_of(tmp_path / "photos", 8)
    found = opened(tmp_path)
    assert {name: [found.images.title(index) for index in indices][::7] for name, indices in found.videos.items()} == {
        "film": ["film/00000.png", "film/00007.png"]
    }


def test_photographs_in_a_row_are_no_video(tmp_path):
    for number in range(8):
        picture(number).save(tmp_path / f"IMG_{number:04d}.png")
    assert opened(tmp_path).videos == {}


def test_whoever_says_so_has_a_video_or_none(tmp_path):
    film(tmp_path / "film", frames=3)
    assert list(opened(tmp_path, video=True).videos) == ["film"]
    assert opened(tmp_path / "film", video=True).videos == {"film": [0, 1, 2]}
    film(tmp_path / "film")
    assert opened(tmp_path, video=False).videos == {}


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    film(tmp_path / "film", frames=3)
    for number, path in enumerate(sorted((tmp_path / "film").iterdir(), reverse=True)):
        path.rename(path.with_name(f"x{9 + 2 - number}.png"))
    found = opened(tmp_path / "film", video=True)
    assert [found.images.title(index) for index in found.videos["film"]] == ["x9.png", "x10.png", "x11.png"]


def test_a_data_set_of_videos_has_its_sequences():
    found = opened("scenes-videos")
    assert found.videos
    first = next(iter(found.videos.values()))
    assert found.images.title(first[0]).rpartition("/")[0] == next(iter(found.videos))


def test_images_of_any_kind_are_taken_as_they_are():
    images = Few(3)
    assert opened(images).images is images
    assert len(opened(in_memory(2)).images) == 2
