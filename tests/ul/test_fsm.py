"""The transition table against the standard (PS3.8 9.2.3), by way of pynetdicom's transcription of it."""

import pytest
from pynetdicom.fsm import ACTIONS as PYNETDICOM_ACTIONS
from pynetdicom.fsm import TRANSITION_TABLE as PYNETDICOM_TABLE

from pacsnode.ul.fsm import OUTCOMES, TABLE, TRANSITIONS, Action, Artim, Event, State, outcome

EVENT_NUMBERS = {event: f"Evt{number}" for number, event in enumerate(Event, 1)}
STATE_NAMES = {state: f"Sta{number}" for number, state in enumerate(State, 1)}
PDUS = (
    Event.A_ASSOCIATE_AC,
    Event.A_ASSOCIATE_RJ,
    Event.A_ASSOCIATE_RQ,
    Event.P_DATA_TF,
    Event.A_RELEASE_RQ,
    Event.A_RELEASE_RP,
    Event.A_ABORT,
    Event.INVALID_PDU,
)


def test_table_is_the_standards() -> None:
    ours = {
        (EVENT_NUMBERS[event], STATE_NAMES[state]): action.name.replace("_", "-")
        for (event, state), action in TRANSITIONS.items()
    }
    assert ours == PYNETDICOM_TABLE
    assert len(ours) == 123


def test_table_has_a_row_for_each_event_and_a_column_for_each_state() -> None:
    assert list(TABLE) == list(Event)
    assert {len(row.split()) for row in TABLE.values()} == {len(State)} == {13}


def test_each_action_is_taken_somewhere_and_ends_somewhere() -> None:
    assert set(TRANSITIONS.values()) == set(Action) == set(OUTCOMES)
    assert len(Action) == 28


@pytest.mark.parametrize("requestor", [True, False], ids=["requestor", "acceptor"])
@pytest.mark.parametrize("action", Action)
def test_action_ends_in_the_standards_next_state(action: Action, requestor: bool) -> None:
    _, _, expected = PYNETDICOM_ACTIONS[action.name.replace("_", "-")]
    if action is Action.AE_6:
        expected = "Sta3"  # Sta13 is reached by AE-8, once negotiation has found the reason
    elif isinstance(expected, tuple):
        expected = expected[0] if requestor else expected[1]
    assert STATE_NAMES[outcome(action, requestor=requestor).state] == expected


@pytest.mark.parametrize("event", PDUS, ids=lambda event: event.name)
def test_no_pdu_is_without_an_action_while_the_transport_connection_is_open(event: Event) -> None:
    without = {state for state in State if (event, state) not in TRANSITIONS}
    assert without == {State.STA1, State.STA4}


def test_closing_actions_are_those_that_close_the_transport_connection() -> None:
    closing = {action for action, result in OUTCOMES.items() if result.closes}
    assert closing == {action for action in Action if "close transport connection" in action.value}


@pytest.mark.parametrize("action", Action)
def test_timer_follows_the_words_of_the_action(action: Action) -> None:
    text = action.value
    expected = Artim.STARTED if "start ARTIM" in text else Artim.LEFT
    if "Stop ARTIM" in text:
        expected = Artim.STOPPED
    assert OUTCOMES[action].artim is expected


def test_timer_runs_in_no_other_states_than_those_in_which_it_may_expire() -> None:
    started_in = {result.state for result in OUTCOMES.values() if result.artim is Artim.STARTED}
    expires_in = {state for event, state in TRANSITIONS if event is Event.ARTIM_EXPIRED}
    assert started_in == expires_in == {State.STA2, State.STA13}
