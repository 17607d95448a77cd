"""The engine's own functions as single calls, which tests compare with model.verdict and model.gro."""

def verdict(bytes data, int vnet_hdr_len, int limit, bint trust):
    """Return the verdict on one frame behind an open gate: (drop or -1, the bytes that would be written). For tests."""
    copy = PyBytes_FromStringAndSize(PyBytes_AS_STRING(data), len(data))
    cdef int drop = frame_verdict(<uint8_t *>PyBytes_AS_STRING(copy), len(data), vnet_hdr_len, limit, trust)
    return drop, copy


def coalesce(list batch, int vnet_hdr_len, bint udp=True):
    """Coalesce frames that are to be forwarded: [(bytes, frames)].

    For tests: the result must equal model.gro.coalesce().
    """
    if any([not isinstance(data, bytes) or len(data) > FRAME_MAX for data in batch]):
        raise ValueError(f"a frame must be a bytes object of at most {FRAME_MAX} bytes")
    cdef uint32_t count = len(batch), i
    cdef Buffer *buffers = <Buffer *>calloc(max(1, count), sizeof(Buffer))
    cdef uint8_t *memory = <uint8_t *>calloc(max(1, count), FRAME_MAX)
    cdef Batch open_flows
    kept = []
    if buffers == NULL or memory == NULL:
        free(buffers)
        free(memory)
        raise MemoryError
    gro_begin(&open_flows, vnet_hdr_len, udp)
    for i in range(count):
        buffers[i].data = memory + <size_t>i * FRAME_MAX
        memcpy(buffers[i].data, PyBytes_AS_STRING(batch[i]), len(batch[i]))
        buffers[i].length, buffers[i].frames = len(batch[i]), 1
        if not gro_offer(&open_flows, &buffers[i]):
            kept.append(i)
    gro_end(&open_flows)
    found = [
        (PyBytes_FromStringAndSize(<char *>buffers[j].data, buffers[j].length), buffers[j].frames) for j in kept
    ]
    free(buffers)
    free(memory)
    return found


def filtered(bytes program, bytes frame):
    """Return what a checked filter returns for a frame. For tests: the result must equal model.cbpf.run()."""
    return run_filter(
        <Instruction *>PyBytes_AS_STRING(program), len(program) // sizeof(Instruction),
        <uint8_t *>PyBytes_AS_STRING(frame), len(frame),
    )


def latency_bucket(uint64_t ns):
    """Return the bucket of a time. For tests: the result must equal model.latency.bucket()."""
    return bucket_of(ns)
