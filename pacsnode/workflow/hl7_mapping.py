"""HL7 fields and the DICOM attributes they become (IHE RAD TF-2 4.1, 4.4, 4.12; appendix B).

The tables only; workflow.hl7_reading follows them. A row is a tag, the places a value is looked for (the
first that has one counts) and how it is read. A place is SEGMENT-field.component; without a component the
reading takes what it needs. Orders by ORM^O01 and OMG^O19 tell accession, procedure and step in OBR-18 to
20, 24 and in ZDS, those by OMI^O23 in IPC. What only stands in, the order number for the accession number for
instance, comes last in its row.
"""

from typing import Final

# Who the patient is: what an update (ADT^A08, A31) changes.
PATIENT: Final = """
00100020  PID-3.1 PID-2.1                          text
00100021  PID-3.4                                  authority
00101002  PID-3                                    other_ids
00100010  PID-5                                    name
00101060  PID-6                                    name
00100030  PID-7                                    date
00100040  PID-8                                    sex
00101001  PID-9                                    name
00102160  PID-22.2 PID-22.1 PID-10.2 PID-10.1      text
00101040  PID-11                                   address
00102154  PID-13                                   texts
001021F0  PID-17.2 PID-17.1                        text
00102110  AL1-3.2 AL1-3.1                          each
00101020  OBX-8302-2                               height
00101030  OBX-3141-9 OBX-29463-7                   weight
"""

# The visit, and the patient's state in it.
VISIT: Final = """
00080090  PV1-8                                    physician
00380010  PV1-19.1 PID-18.1                        text
00380300  PV1-3                                    whole
00380050  PV1-15                                   texts
001021C0  PV1-15                                   pregnancy
00403001  PV1-16.1                                 text
"""

# Imaging service request and requested procedure.
REQUEST: Final = """
00080050  IPC-1.1 OBR-18.1 OBR-3.1 ORC-3.1         text
0020000D  IPC-3.1 ZDS-1.1                          text
00102000  OBR-13                                   text
00321032  OBR-16 ORC-12                            physician
00321033  ORC-17.2 ORC-17.1                        text
00321060  OBR-44.2 OBR-4.2 OBR-44.1 OBR-4.1        text
00321064  OBR-44 OBR-4                             code
00380500  OBR-12.2 OBR-12.1                        text
00401001  IPC-2.1 OBR-19.1 OBR-3.1 ORC-3.1 ORC-2.1 text
00401002  OBR-31.2 OBR-31.1                        text
0040100A  OBR-31                                   code
00401003  TQ1-9.1 ORC-7.6 OBR-27.6 OBR-5.1         priority
00401004  OBR-30.1                                 text
00401010  OBR-28                                   physician
00402004  ORC-9                                    date
00402005  ORC-9                                    time
00402008  ORC-10                                   physician
00402009  ORC-13                                   whole
00402010  ORC-14.1                                 text
00402016  ORC-2.1 OBR-2.1                          text
00402017  ORC-3.1 OBR-3.1                          text
00402400  NTE-3                                    notes
"""

# The scheduled procedure step.
STEP: Final = """
00080060  IPC-5.1 OBR-24.1                         text
00400001  IPC-9                                    texts
00400002  TQ1-7 ORC-7.4 OBR-27.4 OBR-36 OBR-6      date
00400003  TQ1-7 ORC-7.4 OBR-27.4 OBR-36 OBR-6      time
00400006  OBR-34                                   technician
00400007  IPC-6.2 OBR-4.5 OBR-4.2 OBR-44.2 OBR-4.1 text
00400008  IPC-6 OBR-4                              protocol
00400009  IPC-4.1 OBR-20.1 OBR-19.1 OBR-3.1 ORC-3.1 ORC-2.1 text
00400010  IPC-7.1                                  text
00400011  IPC-8.1                                  text
"""

# Requested Procedure Priority, by HL7 table 0027.
PRIORITIES: Final = {
    "S": "STAT", "A": "HIGH", "P": "HIGH", "C": "HIGH", "T": "MEDIUM", "R": "ROUTINE",
}  # fmt: skip
# Patient's Sex, by HL7 table 0001; unknown is empty.
SEXES: Final = {"M": "M", "F": "F", "O": "O", "A": "O", "N": "O"}
PREGNANT: Final = "B6"  # HL7 table 0009; definitely pregnant is 3 (PS3.3 C.2.3.1.1)
# To kilogram and metre, by UCUM unit; without one the number is taken to be in them.
WEIGHTS: Final = {"KG": 1.0, "G": 0.001, "LB": 0.45359237, "LBS": 0.45359237, "[LB_AV]": 0.45359237}
HEIGHTS: Final = {"M": 1.0, "CM": 0.01, "MM": 0.001, "IN": 0.0254, "[IN_I]": 0.0254}
