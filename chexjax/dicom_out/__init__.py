"""What networks found in a DICOM film, as DICOM objects of the same study."""
