"""DIMSE (PS3.7), sans-I/O: command sets, messages from fragments, statuses. Imports ul, dicom, errors."""
