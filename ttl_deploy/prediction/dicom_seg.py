"""DICOM Segmentation objects (PS3.3 A.51) of the masks of DICOM images, made by highdicom.

An object is BINARY, of one segment that is called as the class, in the rows and columns of its image, which it
references; patient, study and frame of reference are the image's. The segment's category and type are both Tissue
(SCT 85756007), because an artifact knows the name of a structure and no code for it. The algorithm is AUTOMATIC,
its name the run that the artifact came from, its version the beginning of the model file's SHA-256. UIDs follow from
the image's, the model and the mask, so that the same prediction again is the same object; the masks that a model says
of a series are one series.

An image without what such an object needs (a patient, a study, a frame of reference where its kind has one, a slice
thickness beside its pixel spacing) gets none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import __version__, files
from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import MissingDependencyError
from ttl_deploy.inputs.image import quiet_readers
from ttl_deploy.progress import Reporter

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SUFFIX = ".seg.dcm"
_MAKER = "ttl-deploy"
_SERIES_NUMBER = 900
_LONGEST = 64
"""Characters of a long string (PS3.5, 6.2)."""
_VERSION_DIGITS = 16


@dataclass(frozen=True)
class Algorithm:
    """What drew a mask.

    Attributes:
        name: Of the run.
        sha256: Of the model file.
    """

    name: str
    sha256: str

    @classmethod
    def of(cls, artifact: Artifact) -> Algorithm:
        """An artifact's."""
        manifest = artifact.manifest
        return cls(manifest.source.name[:_LONGEST], manifest.files[manifest.model_file].sha256)

    @property
    def version(self) -> str:
        """The beginning of the hash."""
        return self.sha256[:_VERSION_DIGITS]


@dataclass
class SegmentationWriter:
    """Writes an object for each mask where it can, and says where it cannot: of a missing package once, else by image.

    Attributes:
        algorithm: What drew the masks.
        structure: What is inside.
        reporter: Told where there is none.
    """

    algorithm: Algorithm
    structure: str
    reporter: Reporter
    _missing: bool = field(default=False, init=False)

    def write(self, path: Path, image: Path, mask: NDArray[np.uint8]) -> bool:
        """Whether the object was written.

        Args:
            path: Where.
            image: The DICOM image.
            mask: (rows, columns) of it, 0 and 1.

        Raises:
            StorageError: The disk is full, read-only or failing.
        """
        if self._missing:
            return False
        try:
            with quiet_readers():
                made = segmentation(image, mask, self.structure, self.algorithm)
        except MissingDependencyError as error:
            self._missing = True
            self.reporter.warn(str(error))
            return False
        except Exception as error:  # of what a file lacks, highdicom and pydicom raise anything
            what = " ".join(str(error).split()) or type(error).__name__
            self.reporter.warn(f"{image}: has only a PNG mask and no DICOM Segmentation: {what}")
            return False
        with files.disk_errors(path), files.atomic_path(path) as place:
            made.save_as(place)
        return True


def segmentation(image: Path, mask: NDArray[np.uint8], structure: str, algorithm: Algorithm) -> Dataset:
    """The object of a mask.

    Args:
        image: The DICOM image.
        mask: (rows, columns) of it, 0 and 1.
        structure: What is inside.
        algorithm: What drew it.

    Raises:
        MissingDependencyError: highdicom is not installed.
        Exception: Anything, where the image lacks an attribute that the object needs.
    """
    try:
        import highdicom
        from pydicom import dcmread
    except ImportError as error:
        what = "highdicom is not installed, so that DICOM images get PNG masks only and no DICOM Segmentation"
        raise MissingDependencyError(what, fix="pip install 'ttl-deploy[medical]'") from error
    source = dcmread(image, stop_before_pixels=True, force=True)
    made: Dataset = highdicom.seg.Segmentation(
        source_images=[source],
        pixel_array=mask[None],
        segmentation_type="BINARY",
        segment_descriptions=[_segment(structure, algorithm)],
        series_instance_uid=_uid("series", source.SeriesInstanceUID, algorithm.sha256),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=_uid("instance", source.SOPInstanceUID, algorithm.sha256, mask.tobytes().hex()),
        instance_number=int(source.get("InstanceNumber") or 1),
        manufacturer=_MAKER,
        manufacturer_model_name=algorithm.name,
        software_versions=__version__,
        device_serial_number=algorithm.version,
        omit_empty_frames=False,  # an empty mask is an answer too
    )
    # It makes objects that it then refuses to read: of images with a pixel spacing and no slice thickness.
    highdicom.seg.Segmentation.from_dataset(made)
    return made


def _segment(structure: str, algorithm: Algorithm) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    drawn_by = highdicom.AlgorithmIdentificationSequence(
        name=algorithm.name, version=algorithm.version, family=codes.DCM.ArtificialIntelligence
    )
    return highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label=structure[:_LONGEST],
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Tissue,
        algorithm_type="AUTOMATIC",
        algorithm_identification=drawn_by,
    )


def _uid(*parts: str) -> str:
    from pydicom.uid import generate_uid

    return generate_uid(entropy_srcs=list(parts))
