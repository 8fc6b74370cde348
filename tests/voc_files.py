"""Annotations in Pascal VOC's XML, made up, in the layout of VOCdevkit."""

from __future__ import annotations

from dataset_files import save_image, save_text


def voc_object(name, box, part="", **marks):
    """One object of an XML file: its class, xmin, ymin, xmax, ymax as written, and marks such as difficult=1."""
    corners = "".join(
        f"<{corner}>{value}</{corner}>" for corner, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    marked = "".join(f"<{word}>{value}</{word}>" for word, value in marks.items())
    return f"<object><name>{name}</name><pose>Left</pose>{marked}{part}<bndbox>{corners}</bndbox></object>"


def voc_xml(size, objects, head=""):
    width, height = size
    stated = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>" if size != (None, None) else ""
    return f"{head}<annotation><filename>of another name.jpg</filename>{stated}{''.join(objects)}</annotation>"


def write_voc(root, year, images, lists):
    """Write VOCdevkit/VOC<year>. images: name -> (size, objects, as `voc_object` gives them); lists: split -> names."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    for name, (size, objects) in images.items():
        save_image(folder / "JPEGImages" / f"{name}.jpg", size[1], size[0])
        save_text(folder / "Annotations" / f"{name}.xml", voc_xml(size, objects))
    for split, names in lists.items():
        save_text(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{name}\n" for name in names))
    return folder
