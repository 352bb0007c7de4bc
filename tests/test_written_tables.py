"""Tables: one way to write what is true, and numbers that are read as they were."""

from tem_studies.written_files import write_table


def test_booleans_and_numbers_of_a_table(tmp_path):
    rows = [
        {"is": True, "a": 107.61843283351885, "b": 0.0, "c": 3, "d": "censored"},
        {"is": False, "a": 1e-7, "b": 0.30000000000000004, "c": 2**40, "d": ""},
    ]
    write_table(tmp_path / "table.csv", rows)
    assert (tmp_path / "table.csv").read_text() == (
        "is,a,b,c,d\ntrue,107.61843283351885,0.0,3,censored\n"
        "false,1e-07,0.30000000000000004,1099511627776,\n"
    )
