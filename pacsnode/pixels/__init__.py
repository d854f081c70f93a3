"""Stored objects in other transfer syntaxes (PS3.5 8.2, 10, A; PS3.3 C.7.6.3).

`plan` says what can be made of what, `pool` has it made in worker processes; both are light to import. The
rest runs in those processes only: `recode` turns the encoding of elements round, `image` knows the attributes
that describe pixels, `frames` takes pixel data apart and puts it together, `stream` reads the heads of
compressed frames, `codec` has the codecs, `transcode` joins these, `worker` is the process.

The same processes make instances of some frames (`extract`, of `cutting`, `frame_attributes`, `frame_times`)
and instances without their bulk data (`bulk`).
"""
