"""An engineer's photographs, twenty of them with masks: which backbone tells the classes apart best?

python own_photos.py FOLDER NAME=SPEC=WEIGHTS NAME=SPEC=WEIGHTS ...
"""

import sys

import densebench

folder, *models = sys.argv[1:]
names, specs, weights = (list(column) for column in zip(*(model.split("=") for model in models), strict=True))

photographs = densebench.load_dataset(folder)  # says what it takes the files for
print("classes:", ", ".join(photographs.classes))
result = densebench.evaluate(
    specs, "incontext", photographs, weights=[file or None for file in weights], name=names, image_size=224, fractions=(1, 2)
)
print(result)
headline = result.headline[["backbone", "fraction", "value", "low", "high"]]
print(headline[headline.fraction == 1].round(1).to_string(index=False))
result.plot().figure.savefig("photographs.png")
