"""Side-by-side benchmarks of the node and its peers on loopback; docs/benchmarks.md says how to read them.

Rooms, each importing only those above it:

    errors    what can go wrong with a measurement
    objects   synthetic DICOM objects, encoded without a DICOM library
    raw       a tiny blocking DIMSE requestor on plain sockets
    http_load a tiny HTTP client on plain sockets, for a process of its own
    senders   ways to store: dcmtk's storescu, and the raw requestor with any window
    targets   the servers: start, pause, stop, memory, what they hold
    report    samples, medians, ratios, goals, the table and the JSON lines
    bench     fresh targets, turns in rotated order, work sized by a pilot
    cases     the work that is measured
"""
