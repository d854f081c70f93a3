"""The HL7 face: messages come in over MLLP and are answered. What they do is workflow's."""
