"""HL7 messages as order systems send them."""


def message(*segments: str) -> str:
    return "\r".join(segments) + "\r"


def segment(name: str, **fields: str) -> str:
    """A segment of fields by their numbers: `segment("PID", f3="P1")`."""
    values = {int(key[1:]): value for key, value in fields.items()}
    return "|".join([name, *(values.get(number, "") for number in range(1, max(values) + 1))])


def msh(kind: str, control_id: str = "1", version: str = "2.5.1", charset: str = "") -> str:
    header = f"MSH|^~\\&|RIS|HOSP|PACSNODE|HOSP|20260105093000||{kind}|{control_id}|P|{version}"
    return f"{header}||||||{charset}" if charset else header


def orm(
    number: int = 1,
    control: str = "NW",
    control_id: str = "",
    modality: str = "CT",
    charset: str = "",
    name: str | None = None,
    start: str = "20260105100000",
) -> str:
    """A general order (HL7 2.3.1, IHE RAD-4) as most systems send it."""
    placer, filler, timing = f"PL{number}", f"FI{number}", f"^^^{start}^^S"
    name = f"Patient^Number{number}" if name is None else name
    return message(
        msh("ORM^O01", control_id or f"orm-{number}-{control}", "2.3.1", charset),
        segment("PID", f1="1", f3=f"P{number}^^^HOSP", f5=name, f7="19700102", f8="F"),
        segment("PV1", f1="1", f2="O", f3="WARD^12^B", f8="77^Referring^Ada^^^Dr."),
        segment("ORC", f1=control, f2=placer, f3=filler, f7=timing, f9="20260105", f17="RAD^Radiology"),
        segment(
            "OBR", f1="1", f2=placer, f3=filler, f4="C1^Abdomen^L^X1^Abdomen native^LP", f13="Allergic",
            f18=f"A{number}", f19=f"RP{number}", f20=f"S{number}", f24=modality, f27=timing, f31="Pain",
            f44="R1^Abdomen^L",
        ),
        f"ZDS|1.2.840.{number}^100^Application^DICOM",
    )  # fmt: skip


def omi(number: int = 1, control: str = "NW", control_id: str = "", steps: tuple[str, ...] = ("1",)) -> str:
    """An imaging order (HL7 2.5.1, IHE RAD-4) with an IPC for each step."""
    placer, filler = f"PL{number}", f"FI{number}"
    return message(
        msh("OMI^O23^OMI_O23", control_id or f"omi-{number}-{control}", charset="UNICODE UTF-8"),
        segment(
            "PID", f1="1", f3=f"P{number}^^^HOSP&1.2.3&ISO~X{number}^^^OTHER",
            f5="Müller^Jörg^^^Dr.^^^A~山田^太郎^^^^^^I", f7="19700102", f8="M",
        ),
        segment("PV1", f1="1", f2="I", f3="WARD^12^B", f8="7^Ref^Ada", f15="B6", f16="V", f19="VISIT1"),
        segment("ORC", f1=control, f2=placer, f3=filler, f12="42^Orderer^Otto"),
        segment("TQ1", f1="1", f7="20260105113000", f9="A"),
        segment("OBR", f1="1", f2=placer, f3=filler, f4="C1^Abdomen^L", f30="WALK", f31="R52^Pain^I10"),
        "OBX|1|NM|8302-2^Body height^LN||172|cm",
        "OBX|2|NM|3141-9^Body weight^LN||70500|g",
        "ZXX|whatever|this|is",
        *(
            segment(
                "IPC", f1=f"A{number}", f2=f"RP{number}", f3=f"1.2.840.{number}", f4=f"S{number}.{step}",
                f5="MR", f6=f"X{step}^Protocol {step}^LP", f7="MR-ROOM", f8="ROOM 1", f9="MR1",
            )
            for step in steps
        ),
    )  # fmt: skip


def adt(event: str, control_id: str = "adt", pid: str = "", *others: str) -> str:
    return message(
        msh(f"ADT^{event}", control_id, charset="UNICODE UTF-8"), f"EVN|{event}|20260105", pid, *others
    )
