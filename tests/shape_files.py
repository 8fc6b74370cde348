"""Annotation files of shapes, made up: a dog and on it a cat, in each of four images of 6 x 4 px."""

from __future__ import annotations

NAMES = ("a", "b", "c", "d")
BOX = [1, 1, 4, 1, 4, 3, 1, 3]
INNER = [2, 1, 3, 1, 3, 2, 2, 2]
CVAT = """<annotations><version>1.1</version><meta><job><labels>
<label><name>dog</name></label><label><name>cat</name></label>
</labels></job></meta>{}</annotations>"""
POLYGONS = (
    '<polygon label="cat" points="2,1;3,1;3,2;2,2" z_order="1"/><box label="dog" xtl="1" ytl="1" xbr="4" ybr="3" z_order="0"/>'
)


def coco(segmentations=((3, [INNER]), (1, [BOX])), size=(6, 4), crowd=0):
    """COCO's JSON: a dog (1) and on it a cat (3), by category and segmentation, in every image."""
    return {
        "images": [
            {"id": number, "file_name": f"{name}.jpg", "width": size[0], "height": size[1]} for number, name in enumerate(NAMES)
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}],
        "annotations": [
            {"image_id": number, "category_id": category, "segmentation": segmentation, "iscrowd": crowd}
            for number in range(len(NAMES))
            for category, segmentation in segmentations
        ],
    }


def shape(label, points, kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, **more}
