"""An engineer's photographs, some of them with masks: which backbone tells the classes apart best?

python own_photos.py FOLDER [SPEC=WEIGHTS ...]
"""

import sys

import densebench

folder, *models = sys.argv[1:]
specs, weights = zip(*(model.split("=") for model in models), strict=True) if models else (("random:test_vit", "pixels:16"), None)

photographs = densebench.load_dataset(folder)
print("classes:", ", ".join(photographs.classes))
result = densebench.evaluate(list(specs), "incontext", photographs, weights=weights, image_size=224, fractions=(1, 2))
print(result)
headline = result.headline[["backbone", "fraction", "value", "low", "high"]]
print(headline[headline.fraction == 1].round(1).to_string(index=False))
result.plot().figure.savefig("photographs.png")
