# rw_lua: the binding, and lua/rwkv/*.lua as byte arrays inside the program (lua/embedded.h).

file(GLOB rw_lua_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/lua/*.c)
file(GLOB_RECURSE rw_lua_files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/lua/rwkv/*.lua)

set(rw_lua_embedded ${CMAKE_BINARY_DIR}/generated/lua_embedded.c)
list(JOIN rw_lua_files "|" rw_lua_file_list)
add_custom_command(
  OUTPUT ${rw_lua_embedded}
  COMMAND ${CMAKE_COMMAND} "-DFILES=${rw_lua_file_list}" -DROOT=${CMAKE_SOURCE_DIR}/lua -DOUT=${rw_lua_embedded}
          -P ${CMAKE_SOURCE_DIR}/lua/embed.cmake
  DEPENDS ${rw_lua_files} ${CMAKE_SOURCE_DIR}/lua/embed.cmake
  COMMENT "Embedding lua/rwkv"
  VERBATIM)

add_library(rw_lua STATIC ${rw_lua_sources} ${rw_lua_embedded})
target_link_libraries(rw_lua PUBLIC rw_plan rw_hooks rw_infer PRIVATE PkgConfig::LUAJIT)
