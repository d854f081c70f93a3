"""The DICOM Upper Layer (PS3.8) without I/O: bytes and time come in as arguments, events and bytes go out.

negotiation.py   what is said in A-ASSOCIATE, and the acceptor's answer to it (PS3.8 7.1, PS3.7 D)
associate.py     A-ASSOCIATE-RQ and -AC as bytes (PS3.8 9.3.2, 9.3.3)
pdu.py           the stream of PDUs: a reader for any chopping of it, and the other PDUs as bytes (PS3.8 9.3)
fsm.py           states, events, actions and the transition table (PS3.8 9.2)
upper_layer.py   UpperLayer: the four above put together; what `net.transport` drives
"""
