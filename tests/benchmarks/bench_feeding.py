"""What feeds a GPU: decoders, the cache in memory, batches from worker processes, features; rates on this machine.

    python tests/benchmarks/bench_feeding.py FOLDER [--images 200] [--side 256] [--workers 2] [--rounds 3] [--large 0]

FOLDER: JPEG files, at any depth. Decoders alternate, on one core, from files that are in memory: pictures a second of CPU time,
best round. Then the pictures (the first ones, enlarged to 4000 x 3000 px, with --large) are decoded and reduced to --side px as
the cache does, by each choice of `--decoder`, with the difference of `reduced` to the others in levels of 256. The cache and the
loader run in processes of their own: the peak of the resident memory, and the most that /dev/shm held meanwhile.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from densebench.datasets.images import First
from densebench.datasets.unlabelled import open_images
from densebench.errors import UserError


def rates(files, rounds):
    """Pictures a second of each decoder that is installed."""
    content = [path.read_bytes() for path in files]

    def pillow(data):
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def draft(data):
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (image.width // 2, image.height // 2))
        return np.asarray(image.convert("RGB"))

    decoders = {"pillow": pillow, "pillow at half": draft}
    try:
        import simplejpeg
    except ImportError:
        print("simplejpeg is not installed: pip install 'densebench[fast]'")
    else:

        def half(data):
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            return simplejpeg.decode_jpeg(data, "RGB", min_height=(height + 1) // 2, min_width=(width + 1) // 2)

        decoders |= {
            "turbo": lambda data: np.asarray(Image.fromarray(simplejpeg.decode_jpeg(data, "RGB"))),
            "turbo at half": half,
        }
        equal = sum(np.array_equal(pillow(data), decoders["turbo"](data)) for data in content)
        print(f"turbo: the same pixels as pillow in {equal} of {len(content)} pictures")
    best = dict.fromkeys(decoders, 0.0)
    for _ in range(rounds):
        for name, decode in decoders.items():
            started = time.process_time()  # other programs on the machine do not count
            for data in content:
                decode(data)
            best[name] = max(best[name], len(content) / (time.process_time() - started))
    for name, rate in best.items():
        print(f"{name:16s} {rate:8.1f} pictures/s, {rate / best['pillow']:.2f} of pillow")


def reduced(files, side):
    """Pictures a second that are decoded and reduced, by each choice of `--decoder`, and how much the pixels differ."""
    from densebench.datasets.io.decoding import DECODERS, use_decoder
    from densebench.datasets.unlabelled import Tree
    from densebench.training.cache import Cache

    images = Tree("pictures", files[0].parent, tuple(os.path.relpath(path, files[0].parent) for path in files))
    caches = {}
    for name in DECODERS:
        try:
            use_decoder(name)
        except UserError:
            continue
        started = time.process_time()
        caches[name] = Cache(images, side, shared=False)
        print(f"--decoder {name:8s} {len(files) / (time.process_time() - started):8.1f} pictures/s of CPU time, to {side} px")
    use_decoder("pillow")
    pairs = [(caches["reduced"].pixels(number), caches["pillow"].pixels(number)) for number in range(len(files))]
    apart = [np.abs(one.astype(int) - other) for one, other in pairs]
    mean, worst, most = np.mean([x.mean() for x in apart]), max(x.mean() for x in apart), max(x.max() for x in apart)
    print(f"reduced differs by {mean:.2f} levels of 256 on average, by {worst:.2f} in one picture, by {most} in one pixel")


def enlarged(files, folder):
    """Files of the pictures, enlarged to 4000 x 3000 px, with noise as a camera has it."""
    made = []
    for number, path in enumerate(files):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").resize((4000, 3000)), np.int16)
        noise = np.random.default_rng(number).integers(-6, 7, pixels.shape)
        made.append(Path(folder, f"{number}.jpg"))
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(made[-1], quality=92)
    return made


class Watched:
    """The most bytes of /dev/shm that were taken during a block, beyond those before it."""

    def __enter__(self):
        self.most, self._before, self._ended = 0, self._taken(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _taken(self):
        found = os.statvfs("/dev/shm")
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def _watch(self):
        while not self._ended.wait(0.005):
            self.most = max(self.most, self._taken() - self._before)

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()


def opened(folder, count):
    images = open_images(folder)
    return First(images, tuple(range(min(count, len(images)))))


def cached(options):
    """Decode all images into memory."""
    from densebench.training.cache import Cache

    images = opened(options.folder, options.images)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    cache = Cache(images, options.side)
    spent = time.perf_counter() - started
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    size = cache.bytes.nbytes
    print(f"cache: {len(images) / spent:.1f} images/s, {size / 1e6:.0f} MB, peak {grown / 1e6:.0f} MB = {grown / size:.2f} of it")


def loaded(options):
    """Read two epochs in batches through worker processes."""
    from densebench.training.augmentation import ViewSpec
    from densebench.training.batches import Order, Reader, load_batches

    images = opened(options.folder, options.images)
    order = Order(len(images), options.images // 2, seed=0)
    started = time.perf_counter()
    with Watched() as shared:
        keys, count = order.micro_batches(0, 2 * order.steps), 0
        for batch in load_batches(Reader(images, (ViewSpec(224, (0.25, 1.0)),) * 2, 0), keys, options.workers, pin=False):
            count += len(batch.numbers)
    rate = count / (time.perf_counter() - started)
    print(f"loader: {rate:.1f} images/s by {options.workers} processes, at most {shared.most / 1e6:.0f} MB of shared memory")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=int, default=0, help="pictures that are enlarged")
    parser.add_argument("--part", choices=("cached", "loaded"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        {"cached": cached, "loaded": loaded}[options.part](options)
        return
    files = sorted(options.folder.rglob("*.jpg"))[: options.images]
    rates(files, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        reduced(enlarged(files[: options.large], folder) if options.large else files, options.side)
    for part in ("cached", "loaded"):
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--part", part], check=True)


if __name__ == "__main__":
    main()
