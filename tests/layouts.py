"""The same photographs in each way in which ImageNet is handed out, with the tool that the way is of.

Each writer takes an empty folder and the photographs, and returns the path to give as imagenet=PATH. Images
have the names that ImageNet gives them in that layout.
"""

import gzip
import io
import json
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.io import savemat

from preprocess.sources.official import DEVKIT, TRAIN_TAR, VAL_TAR

WORDS = {  # of the classes in tests
    "n01440764": "tench, Tinca tinca",
    "n02979186": "cassette player",
    "n03000684": "chain saw, chainsaw",
}


class Photo(NamedTuple):
    """A photograph with its label."""

    part: str  # train or val
    wnid: str
    number: int  # from 1, in its part
    data: bytes  # of the JPEG

    @property
    def name(self) -> str:
        """As in ImageNet."""
        return (
            f"{self.wnid}_{self.number}.JPEG"
            if self.part == "train"
            else f"ILSVRC2012_val_{self.number:08d}.JPEG"
        )

    @property
    def long_name(self) -> str:
        """As at Hugging Face, with the wnid at the end."""
        return f"{Path(self.name).stem}_{self.wnid}.JPEG"

    @property
    def path(self) -> str:
        """In class folders."""
        return f"{self.part}/{self.wnid}/{self.name}"


Photos = list[Photo]
Writer = Callable[[Path, Photos], Path]


def wnids(photos: Photos) -> list[str]:
    return sorted({photo.wnid for photo in photos})


def of(photos: Photos, part: str) -> Photos:
    return [photo for photo in photos if photo.part == part]


def words(wnid: str) -> str:
    return WORDS.get(wnid, f"words of {wnid}")


def write_files(folder: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    for name, data in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_tar(path: Path, files: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"compresslevel": 6} if mode == "w:gz" else {}  # as gzip's
    with tarfile.open(path, mode, **options) as archive:  # type: ignore[call-overload]
        for name, data in files:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


def devkit(folder: Path, photos: Photos) -> None:
    """The official devkit; the IDs are in another order than the wnids."""
    classes = wnids(photos)
    identity = {wnid: len(classes) - rank for rank, wnid in enumerate(classes)}
    fields = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "f8")]
    rows = [(identity[wnid], wnid, words(wnid), "", 0) for wnid in classes]
    rows.append((len(classes) + 1, "n00001740", "entity", "", len(classes)))
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=fields).reshape(-1, 1)})
    truth = "".join(f"{identity[photo.wnid]}\n" for photo in of(photos, "val"))
    data = "ILSVRC2012_devkit_t12/data/"
    files = {
        "meta.mat": meta.getvalue(),
        "ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    }
    write_tar(folder / DEVKIT, ((data + name, content) for name, content in files.items()), "w:gz")


def class_tars(photos: Photos) -> Iterable[tuple[str, bytes]]:
    """A tar a class, as in the official training tar."""
    for wnid in wnids(photos):
        inner = io.BytesIO()
        with tarfile.open(fileobj=inner, mode="w") as archive:
            for photo in of(photos, "train"):
                if photo.wnid == wnid:
                    header = tarfile.TarInfo(photo.name)
                    header.size = len(photo.data)
                    archive.addfile(header, io.BytesIO(photo.data))
        yield f"{wnid}.tar", inner.getvalue()


def by_path(photos: Photos) -> Iterable[tuple[str, bytes]]:
    return ((photo.path, photo.data) for photo in photos)


def official(folder: Path, photos: Photos) -> Path:
    write_tar(folder / TRAIN_TAR, class_tars(photos))
    write_tar(folder / VAL_TAR, ((photo.name, photo.data) for photo in of(photos, "val")))
    devkit(folder, photos)
    return folder


def tar_a_class(folder: Path, photos: Photos) -> Path:
    write_files(folder / "train", class_tars(photos))
    return write_files(folder, by_path(of(photos, "val")))


def class_folders(folder: Path, photos: Photos) -> Path:
    return write_files(folder, by_path(photos))


def class_folders_tar(folder: Path, photos: Photos) -> Path:
    return write_tar(folder / "set.tar", by_path(photos))


def class_folders_tgz(folder: Path, photos: Photos) -> Path:
    return write_tar(folder / "set.tgz", by_path(photos), "w:gz")


def zip_of(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files:
            archive.writestr(name, data)
    return path


def class_folders_zip(folder: Path, photos: Photos) -> Path:
    return zip_of(folder / "set.zip", ((f"some/folder/{name}", data) for name, data in by_path(photos)))


def with_test_part(folder: Path, photos: Photos) -> Path:
    named = ((name.replace("val/", "test/", 1), data) for name, data in by_path(photos))
    return write_files(folder, named)


def deeper(folder: Path, photos: Photos) -> Path:
    return write_files(
        folder,
        ((f"{photo.part}/{photo.wnid}/2012/{photo.wnid}/{photo.name}", photo.data) for photo in photos),
    )


def val_with_list(folder: Path, photos: Photos, lists: Iterable[tuple[str, bytes]]) -> Path:
    write_files(folder, by_path(of(photos, "train")))
    write_files(folder, ((f"val/{photo.name}", photo.data) for photo in of(photos, "val")))
    return write_files(folder, lists)


def caffe(folder: Path, photos: Photos) -> Path:
    lines = (f"{photo.name} {wnids(photos).index(photo.wnid)}\n" for photo in of(photos, "val"))
    return val_with_list(folder, photos, [("val.txt", "".join(lines).encode())])


def val_with_solution(folder: Path, photos: Photos) -> Path:
    return val_with_list(folder, photos, [list(kaggle_files(photos))[1]])


def val_with_devkit(folder: Path, photos: Photos) -> Path:
    devkit(folder, photos)
    return val_with_list(folder, photos, [])


def tars_with_official_val(folder: Path, photos: Photos) -> Path:
    official(folder, photos)
    (folder / TRAIN_TAR).unlink()
    return write_files(folder, class_tars(photos))


def torchvision_without_archive(folder: Path, photos: Photos) -> Path:
    torchvision_root(folder, photos)
    (folder / TRAIN_TAR).unlink()
    (folder / VAL_TAR).unlink()
    return folder


def torchvision_root(folder: Path, photos: Photos) -> Path:
    official(folder, photos)
    class_folders(folder, photos)
    (folder / "meta.bin").write_bytes(b"not read")
    return folder


def kaggle_files(photos: Photos) -> Iterable[tuple[str, bytes]]:
    mapping = "".join(f"{wnid} {words(wnid)}\n" for wnid in wnids(photos))
    lines = [f"{Path(photo.name).stem},{photo.wnid} 1 2 30 40 \n" for photo in of(photos, "val")]
    yield "LOC_synset_mapping.txt", mapping.encode()
    yield "LOC_val_solution.csv", "".join(["ImageId,PredictionString\n", *reversed(lines)]).encode()


def kaggle_images(photos: Photos) -> Iterable[tuple[str, bytes]]:
    for photo in photos:
        name = photo.path if photo.part == "train" else f"val/{photo.name}"
        yield f"ILSVRC/Data/CLS-LOC/{name}", photo.data


def kaggle(folder: Path, photos: Photos) -> Path:
    write_files(folder, kaggle_files(photos))
    return write_files(folder, kaggle_images(photos))


def kaggle_after_valprep(folder: Path, photos: Photos) -> Path:
    write_files(folder, kaggle_files(photos))
    return write_files(folder, ((f"ILSVRC/Data/CLS-LOC/{name}", data) for name, data in by_path(photos)))


def kaggle_zip(folder: Path, photos: Photos) -> Path:
    """With Info-ZIP's program, deflated."""
    kaggle(folder / "tree", photos)
    path = folder / "imagenet-object-localization-challenge.zip"
    subprocess.run(["zip", "-q", "-r", str(path), "."], cwd=folder / "tree", check=True)
    return path


def kaggle_tgz(folder: Path, photos: Photos) -> Path:
    write_files(folder, kaggle_files(photos))
    write_tar(folder / "imagenet_object_localization_patched2019.tar.gz", kaggle_images(photos), "w:gz")
    return folder


def tiny_files(photos: Photos) -> Iterable[tuple[str, bytes]]:
    for photo in photos:
        place = f"train/{photo.wnid}/images" if photo.part == "train" else "val/images"
        yield f"{place}/{photo.name}", photo.data
    notes = "".join(f"{photo.name}\t{photo.wnid}\t0\t32\t44\t62\n" for photo in of(photos, "val"))
    yield "val/val_annotations.txt", notes.encode()
    yield "wnids.txt", "\n".join(reversed(wnids(photos))).encode()
    named = [*wnids(photos), "n00001740"]  # the real list has those of all of WordNet
    yield "words.txt", "".join(f"{wnid}\t{words(wnid)}\n" for wnid in named).encode()


def tiny_imagenet(folder: Path, photos: Photos) -> Path:
    return write_files(folder, tiny_files(photos))


def tiny_imagenet_zip(folder: Path, photos: Photos) -> Path:
    files = ((f"tiny-imagenet-200/{name}", data) for name, data in tiny_files(photos))
    return zip_of(folder / "tiny-imagenet-200.zip", files)


def tiny_imagenet_tar(folder: Path, photos: Photos) -> Path:
    return write_tar(folder / "tiny.tar", ((f"./{name}", data) for name, data in tiny_files(photos)))


def flat_tar_gz(folder: Path, photos: Photos) -> Path:
    """As at Hugging Face before 2024."""
    data, train = folder / "data", of(photos, "train")
    named = [(photo.long_name, photo.data) for photo in train]
    for number in range(5):
        write_tar(data / f"train_images_{number}.tar.gz", named[number::5], "w:gz")
    val = ((photo.long_name, photo.data) for photo in of(photos, "val"))
    write_tar(data / "val_images.tar.gz", val, "w:gz")
    write_tar(data / "test_images.tar.gz", [("ILSVRC2012_test_00000001.JPEG", train[0].data)], "w:gz")
    return folder


def parquet(folder: Path, photos: Photos) -> Path:
    """As at Hugging Face since 2024: two files a part, row groups of 100 rows, snappy."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    classes = wnids(photos)
    label = {"names": [words(wnid) for wnid in classes], "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": label}
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema(
        [("image", image), ("label", pyarrow.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    (folder / "data").mkdir(parents=True)
    for part, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        some = of(photos, part) if part != "test" else photos[:2]
        for number in range(2):
            rows = [
                {
                    "image": {"bytes": photo.data, "path": photo.long_name},
                    "label": classes.index(photo.wnid) if part != "test" else -1,
                }
                for photo in some[number::2]
            ]
            with ParquetWriter(folder / f"data/{name}-{number:05d}-of-00002.parquet", schema) as writer:
                for begin in range(0, len(rows), 100):
                    writer.write_table(pyarrow.Table.from_pylist(rows[begin : begin + 100], schema))
    return folder


def webdataset(folder: Path, photos: Photos) -> Path:
    """As timm's: 64 MB a tar here."""
    from webdataset.writer import ShardWriter

    classes = wnids(photos)
    for part, name in (("train", "train"), ("val", "validation")):
        pattern = str(folder / f"imagenet1k-{name}-%04d.tar")
        with ShardWriter(pattern, maxsize=64e6, maxcount=max(1, len(photos) // 8), verbose=0) as writer:
            for photo in of(photos, part):
                about = {"label": classes.index(photo.wnid), "filename": f"{photo.wnid}/{photo.name}"}
                writer.write(
                    {
                        "__key__": Path(photo.name).stem,
                        "jpg": photo.data,
                        "cls": classes.index(photo.wnid),
                        "json": about,
                    }
                )
    return folder


def webdataset_gzipped(folder: Path, photos: Photos) -> Path:
    webdataset(folder, photos)
    for path in folder.glob("*.tar"):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return folder


def kaggle_tree_tgz(folder: Path, photos: Photos) -> Path:
    return write_tar(folder / "kaggle.tgz", [*kaggle_files(photos), *kaggle_images(photos)], "w:gz")


WRITERS: dict[str, Writer] = {  # those that bench measures
    "official tars": official,
    "a tar a class": tar_a_class,
    "class folders": class_folders,
    "class folders, tar": class_folders_tar,
    "class folders, tgz": class_folders_tgz,
    "class folders, zip": class_folders_zip,
    "Kaggle's tree": kaggle,
    "Kaggle's zip": kaggle_zip,
    "Kaggle's tar.gz": kaggle_tgz,
    "Hugging Face, tar.gz": flat_tar_gz,
    "Hugging Face, parquet": parquet,
    "WebDataset": webdataset,
}
VARIANTS: dict[str, Writer] = {
    "torchvision's root": torchvision_root,
    "torchvision's root without archives": torchvision_without_archive,
    "a tar a class, and the official tar for val": tars_with_official_val,
    "class folders with test/ instead of val/": with_test_part,
    "class folders, deeper": deeper,
    "flat val/ and Caffe's list": caffe,
    "flat val/ and Kaggle's list": val_with_solution,
    "flat val/ and the devkit": val_with_devkit,
    "Kaggle's tree after valprep.sh": kaggle_after_valprep,
    "Kaggle's tree, tgz": kaggle_tree_tgz,
    "WebDataset, a tar.gz each": webdataset_gzipped,
    "Tiny ImageNet": tiny_imagenet,
    "Tiny ImageNet, zip": tiny_imagenet_zip,
    "Tiny ImageNet, tar": tiny_imagenet_tar,
}
