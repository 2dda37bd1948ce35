# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""libnghttp2, opened at run time: a table of its functions, and header fields as it takes them.

The declarations are our own, of the C ABI that libnghttp2.so.14 has had since 2015, so that neither headers nor the
library are needed to build.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t

cdef extern from "dlfcn.h" nogil:
    void *dlopen(const char *name, int flags)
    void *dlsym(void *library, const char *name)
    int RTLD_NOW

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

# Streams reset by the client before they end, a second, and at once (CVE-2023-44487). A call costs us less than its
# reset costs the client, and a client whose calls all come too late resets them all: so both are generous.
cdef int RESETS_AT_ONCE = 4000
cdef int RESETS_A_SECOND = 1000


cdef void *_symbol(void *library, const char *name) except NULL:
    cdef void *found = dlsym(library, name)
    if found == NULL:
        raise OSError("libnghttp2 has no " + name.decode())
    return found


cdef int open_library(str name) except -1:
    """Fill the table.

    Raises:
        OSError: it is not there, is too old, or lets one header block go on for ever (CVE-2024-28182: fixed in 1.61
            and, under the same name, in what distributions ship).
    """
    cdef bytes path = name.encode()
    cdef void *so = dlopen(PyBytes_AS_STRING(path), RTLD_NOW)
    if so == NULL:
        raise OSError(f"{name} cannot be loaded")
    _symbol(so, b"nghttp2_option_set_max_continuations")  # its default, 8, is ours
    lib.callbacks_new = <int (*)(void **) noexcept nogil>_symbol(so, b"nghttp2_session_callbacks_new")
    lib.callbacks_del = <Void_Ptr>_symbol(so, b"nghttp2_session_callbacks_del")
    lib.on_begin_headers = <Set_Callback>_symbol(so, b"nghttp2_session_callbacks_set_on_begin_headers_callback")
    lib.on_header = <Set_Callback>_symbol(so, b"nghttp2_session_callbacks_set_on_header_callback")
    lib.on_frame_recv = <Set_Callback>_symbol(so, b"nghttp2_session_callbacks_set_on_frame_recv_callback")
    lib.on_frame_send = <Set_Callback>_symbol(so, b"nghttp2_session_callbacks_set_on_frame_send_callback")
    lib.on_data_chunk = <Set_Callback>_symbol(so, b"nghttp2_session_callbacks_set_on_data_chunk_recv_callback")
    lib.on_stream_close = <Set_Callback>_symbol(so, b"nghttp2_session_callbacks_set_on_stream_close_callback")
    lib.send_data = <Set_Callback>_symbol(so, b"nghttp2_session_callbacks_set_send_data_callback")
    lib.read_length = <Set_Callback>_symbol(so, b"nghttp2_session_callbacks_set_data_source_read_length_callback")
    lib.option_new = <int (*)(void **) noexcept nogil>_symbol(so, b"nghttp2_option_new")
    lib.option_del = <Void_Ptr>_symbol(so, b"nghttp2_option_del")
    lib.no_auto_window = <Set_Int>_symbol(so, b"nghttp2_option_set_no_auto_window_update")
    lib.no_closed_streams = <Set_Int>_symbol(so, b"nghttp2_option_set_no_closed_streams")
    lib.reset_rate = <Set_Rate>_symbol(so, b"nghttp2_option_set_stream_reset_rate_limit")
    lib.server_new = <int (*)(void **, void *, void *, void *) noexcept nogil>_symbol(
        so, b"nghttp2_session_server_new2")
    lib.client_new = <int (*)(void **, void *, void *, void *) noexcept nogil>_symbol(
        so, b"nghttp2_session_client_new2")
    lib.session_del = <Void_Ptr>_symbol(so, b"nghttp2_session_del")
    lib.mem_recv = <Mem_Recv>_symbol(so, b"nghttp2_session_mem_recv")
    lib.mem_send = <Mem_Send>_symbol(so, b"nghttp2_session_mem_send")
    lib.want_read = <Int_Ptr>_symbol(so, b"nghttp2_session_want_read")
    lib.want_write = <Int_Ptr>_symbol(so, b"nghttp2_session_want_write")
    lib.consume_connection = <int (*)(void *, size_t) noexcept nogil>_symbol(
        so, b"nghttp2_session_consume_connection")
    lib.consume_stream = <int (*)(void *, int32_t, size_t) noexcept nogil>_symbol(
        so, b"nghttp2_session_consume_stream")
    lib.resume = <int (*)(void *, int32_t) noexcept nogil>_symbol(so, b"nghttp2_session_resume_data")
    lib.get_user = <void *(*)(void *, int32_t) noexcept nogil>_symbol(so, b"nghttp2_session_get_stream_user_data")
    lib.set_user = <int (*)(void *, int32_t, void *) noexcept nogil>_symbol(
        so, b"nghttp2_session_set_stream_user_data")
    lib.set_window = <int (*)(void *, uint8_t, int32_t, int32_t) noexcept nogil>_symbol(
        so, b"nghttp2_session_set_local_window_size")
    lib.last_stream = <int32_t (*)(void *) noexcept nogil>_symbol(so, b"nghttp2_session_get_last_proc_stream_id")
    lib.remote_setting = <uint32_t (*)(void *, int) noexcept nogil>_symbol(
        so, b"nghttp2_session_get_remote_settings")
    lib.submit_settings = <int (*)(void *, uint8_t, const Setting *, size_t) noexcept nogil>_symbol(
        so, b"nghttp2_submit_settings")
    lib.submit_request = (
        <int32_t (*)(void *, const void *, const Field *, size_t, const Provider *, void *) noexcept nogil>_symbol(
            so, b"nghttp2_submit_request"))
    lib.submit_response = <int (*)(void *, int32_t, const Field *, size_t, const Provider *) noexcept nogil>_symbol(
        so, b"nghttp2_submit_response")
    lib.submit_trailer = <int (*)(void *, int32_t, const Field *, size_t) noexcept nogil>_symbol(
        so, b"nghttp2_submit_trailer")
    lib.submit_headers = (
        <int32_t (*)(void *, uint8_t, int32_t, const void *, const Field *, size_t, void *) noexcept nogil>_symbol(
            so, b"nghttp2_submit_headers"))
    lib.submit_data = <int (*)(void *, uint8_t, int32_t, const Provider *) noexcept nogil>_symbol(
        so, b"nghttp2_submit_data")
    lib.submit_rst = <int (*)(void *, uint8_t, int32_t, uint32_t) noexcept nogil>_symbol(
        so, b"nghttp2_submit_rst_stream")
    lib.submit_ping = <int (*)(void *, uint8_t, const uint8_t *) noexcept nogil>_symbol(so, b"nghttp2_submit_ping")
    lib.submit_goaway = <int (*)(void *, uint8_t, int32_t, uint32_t, const uint8_t *, size_t) noexcept nogil>_symbol(
        so, b"nghttp2_submit_goaway")
    lib.shutdown_notice = <int (*)(void *) noexcept nogil>_symbol(so, b"nghttp2_submit_shutdown_notice")
    return 0


cdef void *make_options() except NULL:
    """Of every session: windows are given back by hand, closed streams forgotten, floods of resets ended."""
    cdef void *options = NULL
    if lib.option_new(&options):
        raise MemoryError
    lib.no_auto_window(options, 1)
    lib.no_closed_streams(options, 1)
    lib.reset_rate(options, RESETS_AT_ONCE, RESETS_A_SECOND)
    return options


cdef size_t fields_of(Field *fields, size_t count, size_t most, object pairs) except? 0:
    """Metadata as nghttp2 takes it; the strings belong to `pairs`."""
    cdef Py_ssize_t size
    for name, value in pairs:
        if count == most:
            raise ValueError("more metadata than there is room for")
        fields[count].name = <const uint8_t *>PyUnicode_AsUTF8AndSize(name, &size)
        fields[count].name_size = size
        fields[count].value = <const uint8_t *>PyUnicode_AsUTF8AndSize(value, &size)
        fields[count].value_size = size
        # An id is another one each time: in the table it would only push out what comes again.
        fields[count].flags = NV_NO_INDEX if name == "x-request-id" else 0
        count += 1
    return count


cdef void static_field(Field *field, const char *name, size_t name_size, const char *value, size_t value_size) noexcept:
    field.name = <const uint8_t *>name
    field.name_size = name_size
    field.value = <const uint8_t *>value
    field.value_size = value_size
    field.flags = NV_STATIC
