"""Every bound of the wire and of the daemon's tables, with its arithmetic. Units stand at the end of the names."""

from __future__ import annotations

from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20

# Frames of control messages ------------------------------------------------------------------------------------------
HELLO_BYTES_MAX: Final = 1 * KIB
JOIN_BYTES_MAX: Final = 8 * KIB  # a stranger is allowed this much, and JOIN_S
CONTROL_BYTES_MAX: Final = (
    256 * KIB
)  # a plan of 512 ranges with two peer ids of 52 bytes each is about 80 KiB
MANIFEST_BYTES_MAX: Final = 16 * MIB  # 100k tensors at about 160 bytes
SMALL_FILE_BYTES_MAX: Final = 64 * MIB  # tokenizer.json of large vocabularies reaches 20 MB

# Activation frames ---------------------------------------------------------------------------------------------------
ROWS_MAX: Final = 4096  # rows of one frame
WIDTH_MAX: Final = 65_536  # hidden size
BODY_BYTES_MAX: Final = 32 * MIB
EXTENSION_BYTES_MAX: Final = 1 * KIB
PREFILL_CHUNK_ROWS: Final = 128  # attention blocks start at multiples of this position, in replays as well
CREDITS_PER_SESSION: Final = 8  # frames in flight to one stage: 8 x 128 rows x 8 KiB = 8 MiB at hidden 4096
ACTIVATION_BYTES_PER_S: Final = 64 * KIB  # a frame may take this long: 128 rows of hidden 4096 in bf16, 16 s
JOURNAL_BYTES_MAX: Final = 64 * MIB  # frames a stage keeps per session, the input of the next stage

# Sessions ------------------------------------------------------------------------------------------------------------
SESSIONS_MAX: Final = 64  # open on one node
STAGES_MAX: Final = 512  # one layer each
STOP_STRINGS_MAX: Final = 16
STOP_IDS_MAX: Final = 64  # that a last stage is told; the entry looks for all of them itself
PROGRESS_S: Final = 0.25
STALL_S_MIN: Final = (
    1.0  # silence or standstill after which a stage has failed, unless its step is known to be longer
)
FIRST_STEP_S: Final = (
    5.0  # standstill of a stage that has finished no step yet, so that nobody knows how long one takes
)
STALL_STEPS: Final = 3.0  # times the measured step
IDLE_S: Final = 5.0  # all stages idle and no token for this long: a row was lost on the way
FAILOVERS_MAX: Final = 16  # per session; past that something else is wrong

# Mesh ----------------------------------------------------------------------------------------------------------------
MEMBERS_MAX: Final = 1024
ADDRESSES_MAX: Final = 8  # per peer and plane
VOUCH_CONTACTS_MAX: Final = 48  # a contact is at most 64 + 34 + 2 x 8 x 259 + 80 bytes: 48 of them 203 KiB
INVITES_MAX: Final = 256  # outstanding
INVITE_USES_MAX: Final = 1024
CONNECTIONS_MAX: Final = 256  # per host
STREAMS_PER_CONNECTION_MAX: Final = 200  # py-libp2p blocks in silence at 256
DIALS_AT_ONCE: Final = 16  # out of one node; a hundred at once starve each other's handshakes
HALF_OPEN_MAX: Final = 64  # handshakes under way
EVENTS_BEHIND_MAX: Final = 1024  # a subscriber that falls further behind is ended
STRANGER_S: Final = 10.0  # a connection without membership is closed after this

# Node records and finding peers --------------------------------------------------------------------------------------
RECORD_BYTES_MAX: Final = 8 * KIB  # 16 addresses of 131 bytes, 16 labels of 66, a chain, and 1 KiB for the rest
CHAIN_BYTES_MAX: Final = 3 * KIB  # five certificates of about 350 bytes, and room to grow
LABELS_MAX: Final = 16
LABEL_LENGTH_MAX: Final = 64
RECORD_TTL_S: Final = 24 * 3600.0  # renewed at half of it
RECORD_CHECK_S: Final = 10.0  # how soon a changed address of this machine is noticed
RECORD_SKEW_S: Final = 600.0  # that clocks may differ by
BOOK_KEPT_S: Final = 90 * 24 * 3600.0  # a member that was not seen for so long is looked for no more
BOOK_WRITE_S_MIN: Final = 5.0  # between two writes, and before the first retry on a full disk; doubles
BOOK_WRITE_S_MAX: Final = 300.0
DIAL_STAGGER_S: Final = 0.25  # after one address, the next is tried beside it (RFC 8305, section 5)
DIAL_REFUSED_S_MAX: Final = 300.0  # the longest pause for an address where somebody else seems to answer
DNS_S: Final = 5.0  # for all look-ups of one name together
DNS_ANSWERS_MAX: Final = 16  # of one name that are considered
DNS_DEPTH_MAX: Final = 3  # of dnsaddr names that lead to dnsaddr names
BOOTSTRAP_MAX: Final = 64  # addresses that all bootstrap entries together may give
BOOTSTRAP_RETRY_S: Final = 60.0
MDNS_HINTS_MAX: Final = 64  # waiting to be looked at; a peer announces itself again
MDNS_LOOKUPS_AT_ONCE: Final = 2
MDNS_LOOKUP_S: Final = 3.0

# Placement -----------------------------------------------------------------------------------------------------------
MODELS_MAX: Final = 256  # known by name, per node
ROWS_RESERVED_MAX: Final = (
    4096  # of KV, planned with every range: one session of that length, or several short ones
)
PLAN_ROUNDS_MAX: Final = 8  # plans per offer; each round leaves out or caps at least one node
RELOADS_MAX: Final = 5  # of a shard in a row before it is given up as what kills the worker

# Deadlines -----------------------------------------------------------------------------------------------------------
HANDSHAKE_S: Final = 5.0
DIAL_S: Final = 5.0  # per address
OPEN_STREAM_S: Final = 5.0
HELLO_S: Final = 5.0
JOIN_S: Final = 10.0
REPLY_S: Final = 10.0  # a control message that is answered at once
PING_INTERVAL_S: Final = 1.0
PING_TIMEOUT_S: Final = 2.0  # a peer that owes a pong longer than this is gone
REDIAL_S_MIN: Final = 0.25  # doubles with every failure
REDIAL_S_MAX: Final = 5.0
REDIAL_PATIENCE_S: Final = 3.0  # the higher peer id waits this long for the lower one to dial
LEAVE_S: Final = 1.0  # to tell the others that this node goes
GRANT_LEASE_S: Final = 120.0  # to fetch and load; a grant that was not claimed by then is freed
LEASE_S_MAX: Final = 3600.0
LEASE_BYTES_PER_S: Final = 8 * MIB  # a lease is longer by its bytes at this pace, that of a slow home link
SURVEY_S: Final = 30.0  # a node may have to start its worker and let it finish a step before it can measure
LOAD_S: Final = 600.0
DRAIN_S: Final = 10.0  # SIGTERM lets sessions finish this long

# Weights -------------------------------------------------------------------------------------------------------------
TENSORS_MAX: Final = 100_000
TENSOR_BYTES_MAX: Final = 16 << 30
WEIGHT_CHUNK_BYTES: Final = 1 * MIB
WEIGHT_CHUNK_S: Final = 30.0  # for one chunk: slower than 35 KiB/s is given up for another holder
WEIGHT_HOLDERS_AT_ONCE: Final = 4  # that one fetch draws from; more share the same link of this node
PARTIAL_BLOBS_MAX: Final = 64  # half-fetched blobs that a restarted node keeps to go on with
WEIGHTS_IDLE_S: Final = 60.0  # a fetcher that asks for nothing more has its stream closed
SAFETENSORS_HEADER_BYTES_MAX: Final = 16 * MIB

# Control socket and HTTP ---------------------------------------------------------------------------------------------
CONTROL_LINE_BYTES_MAX: Final = 1 * MIB
CONTROL_CLIENTS_MAX: Final = 64
CONTROL_CALLS_MAX: Final = 64  # at a time on one connection
HTTP_BODY_BYTES_MAX: Final = 4 * MIB
HTTP_REQUESTS_MAX: Final = 256  # at a time; sessions have their own, smaller bound
HTTP_KEEPALIVE_S: Final = 15.0  # a comment on a silent event stream, so that proxies keep it open

# The torch worker ----------------------------------------------------------------------------------------------------
WORKER_REQUESTS_MAX: Final = (
    1024  # waiting for the worker: 64 sessions x 8 credits, and the calls around them
)
WORKER_HEADER_BYTES_MAX: Final = (
    64 * MIB
)  # a load names up to 100k tensors with their files, about 500 bytes each
WORKER_PROGRESS_S: Final = 0.05
WORKER_START_S: Final = 120.0  # importing torch from a cold and slow disk
WORKER_STOP_S: Final = 2.0  # after this, a worker that has been told to end is killed
WORKER_RESTART_S_MIN: Final = 0.5  # waited before the second restart; doubles with each, the first is at once
WORKER_RESTART_S_MAX: Final = 30.0
WORKER_STEADY_S: Final = 60.0  # a worker that lived this long begins the doubling anew
