# cython: language_level=3
"""The declarations of libnghttp2, for cimport; see `_nghttp2_c.pyx`."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

ctypedef ssize_t (*ReadData)(void *h2, int32_t stream, uint8_t *buf, size_t length, uint32_t *flags, void **source,
                             void *user) noexcept

ctypedef struct Frame:  # nghttp2_frame_hd, with which every member of the union nghttp2_frame begins
    size_t length
    int32_t stream
    uint8_t kind
    uint8_t flags
    uint8_t reserved

ctypedef struct Field:  # nghttp2_nv
    const uint8_t *name
    const uint8_t *value
    size_t name_size
    size_t value_size
    uint8_t flags

ctypedef struct Provider:  # nghttp2_data_provider
    void *source
    ReadData read

ctypedef struct Setting:  # nghttp2_settings_entry
    int32_t key
    uint32_t value

ctypedef int (*Int_Ptr)(void *) noexcept nogil
ctypedef void (*Void_Ptr)(void *) noexcept nogil
ctypedef void (*Set_Int)(void *, int) noexcept nogil
ctypedef void (*Set_Size)(void *, size_t) noexcept nogil
ctypedef void (*Set_Rate)(void *, uint64_t, uint64_t) noexcept nogil
ctypedef void (*Set_Callback)(void *, void *) noexcept nogil
ctypedef ssize_t (*Mem_Recv)(void *, const uint8_t *, size_t) noexcept
ctypedef ssize_t (*Mem_Send)(void *, const uint8_t **) noexcept

cdef struct Library:
    int (*callbacks_new)(void **) noexcept nogil
    Void_Ptr callbacks_del
    Set_Callback on_begin_headers
    Set_Callback on_header
    Set_Callback on_frame_recv
    Set_Callback on_frame_send
    Set_Callback on_data_chunk
    Set_Callback on_stream_close
    Set_Callback send_data
    Set_Callback read_length
    int (*option_new)(void **) noexcept nogil
    Void_Ptr option_del
    Set_Int no_auto_window
    Set_Int no_closed_streams
    Set_Rate reset_rate
    int (*server_new)(void **, void *, void *, void *) noexcept nogil
    int (*client_new)(void **, void *, void *, void *) noexcept nogil
    Void_Ptr session_del
    Mem_Recv mem_recv
    Mem_Send mem_send
    Int_Ptr want_read
    Int_Ptr want_write
    int (*consume_connection)(void *, size_t) noexcept nogil
    int (*consume_stream)(void *, int32_t, size_t) noexcept nogil
    int (*resume)(void *, int32_t) noexcept nogil
    void *(*get_user)(void *, int32_t) noexcept nogil
    int (*set_user)(void *, int32_t, void *) noexcept nogil
    int (*set_window)(void *, uint8_t, int32_t, int32_t) noexcept nogil
    int32_t (*last_stream)(void *) noexcept nogil
    uint32_t (*remote_setting)(void *, int) noexcept nogil
    int (*submit_settings)(void *, uint8_t, const Setting *, size_t) noexcept nogil
    int32_t (*submit_request)(void *, const void *, const Field *, size_t, const Provider *, void *) noexcept nogil
    int (*submit_response)(void *, int32_t, const Field *, size_t, const Provider *) noexcept nogil
    int (*submit_trailer)(void *, int32_t, const Field *, size_t) noexcept nogil
    int32_t (*submit_headers)(void *, uint8_t, int32_t, const void *, const Field *, size_t, void *) noexcept nogil
    int (*submit_data)(void *, uint8_t, int32_t, const Provider *) noexcept nogil
    int (*submit_rst)(void *, uint8_t, int32_t, uint32_t) noexcept nogil
    int (*submit_ping)(void *, uint8_t, const uint8_t *) noexcept nogil
    int (*submit_goaway)(void *, uint8_t, int32_t, uint32_t, const uint8_t *, size_t) noexcept nogil
    int (*shutdown_notice)(void *) noexcept nogil

cdef enum:
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    END_STREAM = 1
    ACK = 1
    FLAG_EOF = 1
    FLAG_NO_END_STREAM = 2
    FLAG_NO_COPY = 4
    NV_NO_INDEX = 1
    NV_STATIC = 6  # neither name nor value need to be copied
    ERR_DEFERRED = -508
    ERR_CALLBACK = -902
    SETTINGS_TABLE = 1
    SETTINGS_PUSH = 2
    SETTINGS_STREAMS = 3
    SETTINGS_WINDOW = 4
    SETTINGS_FRAME = 5
    SETTINGS_HEADER_LIST = 6

cdef Library lib
"""What `open_library` found."""

cdef int open_library(str name) except -1
cdef void *make_options() except NULL
cdef size_t fields_of(Field *fields, size_t count, size_t most, object pairs) except? 0
cdef void static_field(Field *field, const char *name, size_t name_size, const char *value, size_t value_size) noexcept
