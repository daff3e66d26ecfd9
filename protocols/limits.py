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
LOGPROBS_MAX: Final = 20  # of the likeliest tokens at each position: 164 bytes beside the token
LOGIT_BIASES_MAX: Final = 1024  # of 14 bytes each when a stage is opened
GRAMMAR_BYTES_MAX: Final = 64 * KIB  # a JSON schema; with the biases within CONTROL_BYTES_MAX
PROGRESS_S: Final = 0.25
STALL_S_MIN: Final = (
    1.0  # silence or standstill after which a stage has failed, unless its step is known to be longer
)
FIRST_STEP_S: Final = (
    5.0  # standstill of a stage that has finished no step yet, so that nobody knows how long one takes
)
STALL_STEPS: Final = 3.0  # times the measured step
IDLE_S: Final = 5.0  # all stages idle and no token for this long: a row was lost on the way
NUDGES_MAX: Final = (
    4  # lost rows are fed again so often where nobody can be replaced: 75 s with the pauses between them
)
FAILOVERS_MAX: Final = 16  # per session; past that something else is wrong

# Mesh ----------------------------------------------------------------------------------------------------------------
MEMBERS_MAX: Final = 1024
ADDRESSES_MAX: Final = 8  # per peer and plane
INVITES_MAX: Final = 256  # outstanding
INVITE_USES_MAX: Final = 1024
CONNECTIONS_MAX: Final = 256  # per host
STREAMS_PER_CONNECTION_MAX: Final = 200  # py-libp2p blocks in silence at 256
DIALS_AT_ONCE: Final = 16  # out of one node; a hundred at once starve each other's handshakes
HALF_OPEN_MAX: Final = 64  # handshakes under way
EVENTS_BEHIND_MAX: Final = 1024  # a subscriber that falls further behind is ended
STRANGERS_MAX: Final = 64  # connected at a time, of CONNECTIONS_MAX
STRANGER_S: Final = 10.0  # a connection without membership is closed after this
HALF_OPEN_PER_PREFIX_MAX: Final = 4  # of them from one /24 (IPv6: /64)
HALF_OPEN_LOOPBACK_MAX: Final = 32  # of them from this machine, which has many nodes at times
HANDSHAKES_PER_S: Final = 10.0  # that one prefix may begin, and as many at once
HANDSHAKES_LOOPBACK_PER_S: Final = 500.0  # 0.4 ms of CPU each until the peer has proved something
PREFIXES_MAX: Final = 1024  # whose handshakes are counted; the longest quiet one is forgotten first

# Certificates --------------------------------------------------------------------------------------------------------
CHAIN_MAX: Final = 5  # certificates from a member up to the founder, both included
SHOWN_BYTES_MAX: Final = 4 * KIB  # what a side shows in a handshake: a chain, and room to grow
CLOCK_SKEW_S: Final = 600.0  # that the clocks of two members may differ by
CERTIFICATE_S: Final = 365 * 24 * 3600.0
ROOT_CERTIFICATE_S: Final = 100 * CERTIFICATE_S  # the founder could always make itself another
RENEW_BEFORE_S: Final = 2 / 3 * CERTIFICATE_S  # left: whoever was up lately may be away for half a year
RENEW_CHECK_S: Final = 6 * 3600.0
RENEW_WARN_S: Final = 60 * 24 * 3600.0  # left: time for the operator to do something
CHAINS_KEPT_MAX: Final = 2 * MEMBERS_MAX  # verified chains, about 1.5 KiB each; the eldest is dropped
REVOKERS_MAX: Final = 64  # lists of revocations kept, those of the issuers nearest to the founder
REVOCATIONS_BYTES_MAX: Final = 64 * KIB  # 1,024 peer ids of 54 bytes, a chain and a signature
STATIC_S: Final = 30 * 24 * 3600.0  # a Noise key is used so long, and is good for as long again

# Node records and finding peers --------------------------------------------------------------------------------------
RECORD_BYTES_MAX: Final = 8 * KIB  # 16 addresses of 131 bytes, 16 labels of 66, a chain, 1 KiB for the rest
CHAIN_BYTES_MAX: Final = 3 * KIB  # five certificates of about 350 bytes, and room to grow
LABELS_MAX: Final = 16
LABEL_LENGTH_MAX: Final = 64
RECORD_TTL_S: Final = 24 * 3600.0  # renewed at half of it
RECORD_CHECK_S: Final = 10.0  # how soon a changed address of this machine is noticed
BOOK_KEPT_S: Final = 366 * 24 * 3600.0  # as long as a certificate lasts: after that it is no member any more
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

# What is thought of peers --------------------------------------------------------------------------------------------
EVIDENCE_PER_PEER_MAX: Final = 32  # the newest; at about 200 bytes each, 1024 peers take 7 MB at most
EVIDENCE_LENGTH_MAX: Final = 160  # of one sentence
REPORTERS_PER_PEER_MAX: Final = 32  # at about 0.5 KiB each, 1024 peers take 16 MiB at most
OBSERVATIONS_S: Final = 5.0  # between two publications about one peer that has done badly
OBSERVATIONS_GOOD_S: Final = 60.0  # and about one that has only done well
OBSERVATIONS_TTL_S: Final = 24 * 3600.0  # renewed at half of it
OBSERVATION_SKEW_S: Final = 120.0  # dated later than its bundle by more than this, it is refused
HEALTH_S: Final = 5.0  # between two digests of a node's health, among HEALTH_MEMBERS or fewer
HEALTH_MEMBERS: Final = (
    50  # among more the pause grows with them: nobody hears more than 10 digests (6 KB) a second
)
HEALTH_MISSED: Final = 3  # pauses after which what was heard says nothing about now
HEALTH_KEPT: Final = 6  # pauses for which a digest stands
HEALTH_TTL_S: Final = HEALTH_KEPT * HEALTH_S
HEALTH_RANGES_MAX: Final = 32  # of 80 bytes in a digest
HEALTH_LINKS_MAX: Final = 16  # of 73 bytes
HEALTH_BYTES: Final = (
    600  # links are left out to stay within, ranges are not: 1,024 members every 5 s are 123 kB/s
)
LOOP_LAG_S: Final = 10.0  # the worst of this long counts
PICTURE_SAVED_S: Final = 60.0  # between two writes to disk

# The wire ------------------------------------------------------------------------------------------------------------
STREAM_WINDOW_BYTES: Final = 256 * KIB  # of every fresh stream, as yamux has it
STREAM_WINDOW_BYTES_MAX: Final = 4 * MIB  # of one that is read: 1 Gbit/s at a round trip of 32 ms
URGENT_WINDOW_BYTES_MAX: Final = 1 * MIB  # decode rows and gossip are small
WINDOW_GROWTH_BYTES_MAX: Final = (
    32 * MIB
)  # of all streams of a connection together, beyond (200 + 256) x 256 KiB = 114 MiB
STREAMS_INBOUND_MAX: Final = 256  # on one connection; as many as a stock peer opens
WIRE_CHUNK_BYTES: Final = 64 * KIB  # what a more urgent frame may have to wait for: 0.5 ms at 1 Gbit/s
WIRE_TURN_BYTES: Final = 256 * KIB  # written before other tasks have a turn: about 0.3 ms of encryption
UNSENT_BYTES_MAX: Final = 128 * KIB  # in the kernel and not yet sent, where no priority reaches it any more
ANSWERS_BYTES_MAX: Final = 64 * KIB  # of 12 bytes each, that a peer has asked for and does not read
WIRE_PINGS_PER_S_MAX: Final = 64  # stock peers send one in 30 s
STREAMS_PER_S_MAX: Final = 2048  # opened by one peer on one connection; a stream costs about 0.2 ms
REKEY_FRAMES: Final = 1 << 16  # of one direction: at most 4 GiB under one key

# Foreign peers -------------------------------------------------------------------------------------------------------
FOREIGN_CONNECTIONS_MAX: Final = 32  # in and out together
FOREIGN_STREAMS_MAX: Final = 8  # open on one connection: 32 x 8 windows of 1 MiB are 256 MiB at worst
FOREIGN_OPENINGS_PER_S: Final = 64  # streams that one connection may open, and as many at once
FOREIGN_STREAM_BYTES_MAX: Final = 16 * MIB  # that one stream may send
FOREIGN_BYTES_PER_S: Final = 1 * MIB  # that one connection may send, and as much at once
FOREIGN_ALL_BYTES_PER_S: Final = (
    2 * MIB
)  # that all of them may send together: 0.3 of a core at its most laborious
FOREIGN_TURN_BYTES: Final = 16 * KIB  # what a smaller piece counts as: 64 of them a second
FOREIGN_IDLE_S: Final = 30.0  # a stream that carries nothing, or a connection without streams, is ended
FOREIGN_ANSWER_S: Final = 10.0  # for a peer that this node asks something
FOREIGN_PINGS_MAX: Final = 64  # of one command
IDENTIFY_BYTES_MAX: Final = 8 * KIB  # as js-libp2p has it

# Placement -----------------------------------------------------------------------------------------------------------
MODELS_MAX: Final = 256  # known by name, per node
ROWS_RESERVED_MAX: Final = (
    4096  # of KV, planned with every range: one session of that length, or several short ones
)
PLAN_ROUNDS_MAX: Final = 8  # plans per offer; each round leaves out or caps at least one node
RELOADS_MAX: Final = 5  # of a shard in a row before it is given up as what kills the worker

# Gossip --------------------------------------------------------------------------------------------------------------
GOSSIP_KEY_CHARS_MAX: Final = 192  # a model digest of 64 and a range
GOSSIP_ITEM_BYTES_MAX: Final = 32 * KIB  # a node record with a chain of five certificates is about 4 KiB
GOSSIP_ITEMS_MAX: Final = 128  # in one bundle
GOSSIP_BUNDLE_BYTES_MAX: Final = 64 * KIB  # one item of the largest kind and a few beside it
GOSSIP_TTL_S_MAX: Final = 30 * 86_400
GOSSIP_AHEAD_S: Final = 600.0  # how much later than this node's clock a bundle may say that it was made
GOSSIP_COALESCE_S: Final = (
    0.05  # between two bundles of one author, so at most 20 a second unless they are full
)
GOSSIP_GATHER_S: Final = 0.005  # what is said within this goes into one bundle even after a long silence
GOSSIP_AUTHOR_ITEMS_MAX: Final = (
    2048  # keys of one author: a word about each of 1,023 others, and as much again for the rest
)
GOSSIP_AUTHOR_BYTES_MAX: Final = 256 * KIB  # kept bundles of one author: 256 MiB for MEMBERS_MAX of them
GOSSIP_ACTIVE: Final = 5  # links that a node sees to: 1,000 nodes of this degree are about 5 hops across
GOSSIP_ACTIVE_MAX: Final = 8  # links that it accepts
GOSSIP_PASSIVE: Final = 30
GOSSIP_LINK_BYTES_MAX: Final = 4 * MIB  # waiting for one slow link, which is given up past that
GOSSIP_LINK_S: Final = 10.0  # for one write to a link, and for the answer to an opening
GOSSIP_WRITE_PAUSE_S: Final = (
    0.01  # between two writes to one link, so that a busy one carries many bundles in each
)
GOSSIP_AVOID_S: Final = 5.0  # a peer that had no room or did not answer is not asked again for this long
GOSSIP_CUT_OFF_S: Final = 60.0  # a peer that broke the rules has no link for this long
GOSSIP_SHUFFLE_S: Final = 30.0
GOSSIP_REPAIR_S: Final = 15.0
GOSSIP_REPAIR_MORE_S: Final = 0.5  # when the last repair had to leave something out
GOSSIP_ANNOUNCE_S: Final = (
    0.1  # ids gather this long before the end with the lower peer id announces them on lazy links
)
GOSSIP_ECHO_S: Final = (
    0.3  # so much later the other end announces what it was not told of: more than a way round the world
)
GOSSIP_GRAFT_S: Final = 0.3  # an announced bundle that has not come by then is asked for
GOSSIP_RECENT_MAX: Final = 8192  # ids remembered: 20 s of the 400 bundles/s that a core can carry
GOSSIP_RECENT_S: Final = (
    60.0  # and for how long: what is announced later than that the table knows, if it stands
)
GOSSIP_MISSING_MAX: Final = 4096  # ids that were announced and have not come
GOSSIP_IDS_MAX: Final = 4096  # in one message: 64 KiB
GOSSIP_BUCKETS_MAX: Final = 256
GOSSIP_REPAIR_BYTES_MAX: Final = (
    1 * MIB
)  # of bundles in answer to one message, a quarter of what a link may hold back
GOSSIP_PEER_PER_S: Final = 2000  # messages of one neighbour; 1,024 members with a bundle every 5 s are 205
GOSSIP_PEER_BURST: Final = 8000  # and those of a repair
GOSSIP_PEER_BYTES_PER_S: Final = 8 * MIB
GOSSIP_PEER_BYTES_BURST: Final = 32 * MIB
GOSSIP_FORGED_PER_MIN: Final = (
    10  # signatures that do not hold, from one neighbour: who relays has checked them
)
GOSSIP_STRANGERS_PER_S: Final = (
    20  # records of authors not known, from one neighbour: up to 0.4 ms each for its chain
)
GOSSIP_REPAIRS_PER_S: Final = (
    4  # digests and listings of one neighbour: each is a pass over the table, some ms
)
GOSSIP_REPAIRS_BURST: Final = 16
GOSSIP_AUTHOR_PER_S: Final = 100  # bundles of one author, full ones included
GOSSIP_AUTHOR_BURST: Final = 1024  # all that a node that slept may get of one author at once

# Deadlines -----------------------------------------------------------------------------------------------------------
HANDSHAKE_S: Final = 5.0
DIAL_S: Final = 5.0  # per address
OPEN_STREAM_S: Final = 5.0
HELLO_S: Final = 5.0
JOIN_S: Final = 10.0
REPLY_S: Final = 10.0  # a control message that is answered at once
REDIAL_S_MIN: Final = 0.25  # doubles with every failure
REDIAL_S_MAX: Final = 5.0
REDIAL_UNMET_S_MAX: Final = 60.0  # for who was never reached: 1,023 members that were made up are 34 dials/s
REDIAL_PATIENCE_S: Final = 3.0  # the higher peer id waits this long for the lower one to dial
JOINED_PAUSE_S: Final = (
    0.2  # after joining, before the others are dialled: gossip of 12 nodes takes 30 ms, of 200 about this
)
LEAVE_S: Final = 1.0  # to tell the others that this node goes
CLAIM_TTL_S: Final = (
    24 * 3600.0
)  # a claim of a node that is gone is forgotten after this; repeated at half of it
GRANT_LEASE_S: Final = 120.0  # to fetch and load; a grant that was not claimed by then is freed
LEASE_S_MAX: Final = 3600.0
LEASE_BYTES_PER_S: Final = 8 * MIB  # a lease is longer by its bytes at this pace, that of a slow home link
SURVEY_S: Final = 30.0  # a node may have to start its worker and let it finish a step before it can measure
LOAD_S: Final = 600.0
WITHDRAW_S: Final = (
    60.0  # a withdrawn range waits for its sessions; one that takes longer ends later, unwatched
)
DRAIN_S: Final = 10.0  # SIGTERM lets sessions finish this long

# Liveness ------------------------------------------------------------------------------------------------------------
MONITORS: Final = (
    3  # successors on the ring that probe a node: 3 pings/s out and in, whatever the size of the mesh
)
MONITORS_SLACK: Final = (
    4  # further successors whose word counts, because views of the ring differ for a while
)
TOLD_DIRECTLY: Final = (
    16  # of a suspicion or a refutation, monitors first: a small mesh need not wait for gossip's repair
)
SUSPICIONS_NEEDED: Final = 2  # distinct monitors; one if there is only one other node
PROBE_INTERVAL_S: Final = 1.0
PROBE_S: Final = 0.5  # for a pong; stretched by up to 2 while this node is late itself
INQUIRY_S: Final = 0.4  # for others to be asked; with PROBE_S a stall of 0.9 s raises no suspicion
INQUIRIES: Final = 3  # others asked at once
REFUTE_S: Final = 1.0  # silent: 1 + 0.5 + 0.4 + 1 = 2.9 s from the stop to the verdict, 4.4 s if stretched
REFUTE_REFUSED_S: Final = 0.5  # where nobody listens any more
ALONE_S: Final = 5.0  # own suspicion without a second one: this node goes by it, nobody else does
UNEXPLAINED_ROUNDS: Final = 3  # nobody reached, not even those asked for help: own fault up to here
LATENESS_MAX: Final = 4  # points of own lateness, each of which stretches deadlines by a quarter
REFUTE_PAUSE_S: Final = 0.1  # between raises of the own incarnation, however many suspicions come in
INCARNATION_BLOCK: Final = 1000  # reserved on disk at a time
INCARNATION_JUMP_MAX: Final = (
    1_000_000  # a suspicion further ahead is ignored: 1,000 starts of a home restored from a backup
)
SUSPICIONS_MAX: Final = 16  # kept of one subject: MONITORS + MONITORS_SLACK with both views of a changed ring
TOMBSTONE_S: Final = 72 * 3600.0
ALIVE_TTL_S: Final = (
    600.0  # said again at a third of it; whoever died is no longer passed on as alive after that
)
WATCH_IDLE_S: Final = 30.0  # a ping stream that carries nothing is closed
WATCH_TASKS_MAX: Final = (
    256  # tellings, inquiries and redials at a time; more are left out, and made up for by the next round
)

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
KV_SESSION_SHARE: Final = 0.5  # of a worker's memory for caches that one session may have
KV_PEER_SHARE: Final = 0.75  # and all sessions of one peer: somebody else still finds room
KV_PREFIX_SHARE: Final = (
    0.25  # and blocks of prompts kept for later sessions, which make way whenever a session wants their room
)
PREFIX_BLOCKS_MAX: Final = 1024  # named when a stage is opened: 34 bytes each, 34 KiB for 131,072 rows
WORKER_START_S: Final = 120.0  # importing torch from a cold and slow disk
WORKER_STOP_S: Final = 2.0  # after this, a worker that has been told to end is killed
RANK_SILENCE_S: Final = (
    30.0  # of a process that computes layers with others, in which a sum takes milliseconds
)
WORKER_RESTART_S_MIN: Final = 0.5  # waited before the second restart; doubles with each, the first is at once
WORKER_RESTART_S_MAX: Final = 30.0
WORKER_STEADY_S: Final = 60.0  # a worker that lived this long begins the doubling anew
