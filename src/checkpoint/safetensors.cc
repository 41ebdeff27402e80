#include "checkpoint/safetensors.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "checkpoint/strict_json.h"
#include "core/error.h"
#include "core/json_text.h"

namespace qg {
namespace {

constexpr const char* kBrokenFix = "the file is broken: fetch or write it again";

// A name may hold anything that JSON allows; in a message it must stay one readable line.
std::string shown(const std::string& name) {
  std::string text;
  for (char c : name.substr(0, 200)) text += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
  return text;
}

[[noreturn]] void refuse(const std::string& what, const std::string& where) {
  throw Error(what, where, kBrokenFix);
}

int64_t header_length(std::span<const std::byte> file, int64_t file_bytes, const std::string& where) {
  if (file_bytes < 8 || file.size() < 8)
    refuse("not a safetensors file: " + std::to_string(file_bytes) + " bytes, shorter than its 8-byte length field",
           where);
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | std::to_integer<uint64_t>(file[static_cast<size_t>(i)]);
  if (length > static_cast<uint64_t>(kMaxHeaderBytes))
    refuse(
        "not a safetensors file: a header of " + std::to_string(length) + " bytes, more than the 100,000,000 allowed",
        where);
  if (static_cast<int64_t>(length) > file_bytes - 8 || length > file.size() - 8)
    refuse("header of " + std::to_string(length) + " bytes does not fit in a file of " + std::to_string(file_bytes) +
               " bytes",
           where);
  return static_cast<int64_t>(length);
}

int64_t whole_number(const nlohmann::json& value, const std::string& what, const std::string& where) {
  const bool fits = value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX);
  if (!fits) refuse(what + " should be a whole number of at least 0", where);
  return value.get<int64_t>();
}

Shape parse_shape(const nlohmann::json& value, const std::string& where) {
  if (!value.is_array() || value.size() > 16) refuse("\"shape\" should be a list of at most 16 numbers", where);
  Shape shape;
  for (const nlohmann::json& dimension : value) shape.push_back(whole_number(dimension, "\"shape\"", where));
  return shape;
}

// Bytes that dtype and shape ask for; throws when they overflow.
int64_t needed_bytes(const TensorEntry& entry, const std::string& where) {
  int64_t count = 1, bytes = 0;
  for (int64_t d : entry.shape)
    if (__builtin_mul_overflow(count, d, &count)) refuse("shape " + to_string(entry.shape) + " is too large", where);
  if (__builtin_mul_overflow(count, static_cast<int64_t>(size_bytes(entry.dtype)), &bytes))
    refuse("shape " + to_string(entry.shape) + " is too large", where);
  return bytes;
}

StoredTensor parse_tensor(const std::string& name, const nlohmann::json& value, int64_t data_begin, int64_t file_bytes,
                          const std::string& file) {
  const std::string where = file + ", tensor " + shown(name);
  if (!value.is_object()) refuse("entry should be a JSON object", where);
  for (const auto& [key, ignored] : value.items())
    if (key != "dtype" && key != "shape" && key != "data_offsets") refuse("unknown key \"" + shown(key) + "\"", where);
  for (const char* key : {"dtype", "shape", "data_offsets"})
    if (!value.contains(key)) refuse(std::string("key \"") + key + "\" is missing", where);

  StoredTensor stored;
  stored.name = name;
  if (!value["dtype"].is_string()) refuse("\"dtype\" should be a string", where);
  const std::string dtype = value["dtype"].get<std::string>();
  if (!parse_dtype(dtype))
    throw Error("dtype \"" + shown(dtype) + "\" is not known", where,
                "known are F64 F32 F16 BF16 F8_E4M3 F8_E5M2 I64 I32 I16 I8 U8 BOOL");
  stored.dtype = *parse_dtype(dtype);
  stored.shape = parse_shape(value["shape"], where);

  const nlohmann::json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2) refuse("\"data_offsets\" should be two numbers", where);
  const int64_t begin = whole_number(offsets[0], "\"data_offsets\"", where);
  const int64_t end = whole_number(offsets[1], "\"data_offsets\"", where);
  if (begin > end || end > file_bytes - data_begin)
    refuse("bytes " + std::to_string(begin) + " to " + std::to_string(end) + " do not lie in the file's " +
               std::to_string(file_bytes - data_begin) + " bytes of data",
           where);
  stored.offset = data_begin + begin;
  stored.bytes = end - begin;
  if (needed_bytes(stored, where) != stored.bytes)
    refuse(dtype + " " + to_string(stored.shape) + " needs " + std::to_string(needed_bytes(stored, where)) +
               " bytes, data_offsets give it " + std::to_string(stored.bytes),
           where);
  return stored;
}

std::map<std::string, std::string> parse_metadata(const nlohmann::json& value, const std::string& where) {
  if (!value.is_object()) refuse("\"__metadata__\" should be a JSON object", where);
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) refuse("\"__metadata__\" key \"" + shown(key) + "\" should be a string", where);
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

// Every byte of data belongs to exactly one tensor, and every tensor can be read through a typed pointer.
void check_places(const SafetensorsHeader& header, int64_t file_bytes, const std::string& file) {
  int64_t expected = header.data_begin;
  for (const StoredTensor& stored : header.tensors) {
    const std::string where = file + ", tensor " + shown(stored.name);
    if (stored.offset < expected) refuse("overlaps the tensor before it", where);
    if (stored.offset > expected)
      refuse("leaves a gap of " + std::to_string(stored.offset - expected) + " bytes before it", where);
    if (stored.bytes > 0 && stored.offset % static_cast<int64_t>(size_bytes(stored.dtype)) != 0)
      throw Error("starts at byte " + std::to_string(stored.offset) + " of the file, which " +
                      std::string(to_string(stored.dtype)) + " elements cannot be aligned to",
                  where, "write the file again with a current version of safetensors");
    expected = stored.offset + stored.bytes;
  }
  if (expected != file_bytes)
    refuse(std::to_string(file_bytes - expected) + " bytes at the end belong to no tensor", file);
}

bool lies_before(const TensorEntry& a, const TensorEntry& b) {
  const size_t a_bytes = size_bytes(a.dtype), b_bytes = size_bytes(b.dtype);
  return a_bytes != b_bytes ? a_bytes > b_bytes : a.name < b.name;
}

std::string header_text(const std::vector<TensorEntry>& entries, const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  if (!metadata.empty()) text += "\"__metadata__\":" + json_text(Json(metadata)) + ",";
  int64_t offset = 0;
  for (const TensorEntry& entry : entries) {
    const int64_t end = offset + needed_bytes(entry, entry.name);
    const Json value{{"dtype", to_string(entry.dtype)}, {"shape", entry.shape}, {"data_offsets", {offset, end}}};
    text += Json(entry.name).dump() + ":" + value.dump() + ",";
    offset = end;
  }
  if (text.size() > 1) text.pop_back();
  text += "}";
  return text.append((8 - text.size() % 8) % 8, ' ');
}

void check_disk_space(const std::filesystem::path& path, int64_t bytes) {
  std::error_code code;
  const auto folder = path.parent_path().empty() ? std::filesystem::path(".") : path.parent_path();
  const std::filesystem::space_info space = std::filesystem::space(folder, code);
  if (!code && space.available < static_cast<uintmax_t>(bytes))
    throw Error("needs " + std::to_string(bytes) + " bytes of disk, " + std::to_string(space.available) + " are free",
                path.string(), "free disk space, or write to another disk", ExitCode::cannot_here);
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file, int64_t file_bytes,
                                           const std::string& where) {
  const int64_t length = header_length(file, file_bytes, where);
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, static_cast<size_t>(length));
  if (text.empty() || text.front() != '{') refuse("not a safetensors file: the header does not start with '{'", where);
  check_strict_json(text, where + ", header");
  const nlohmann::json json = nlohmann::json::parse(text);

  SafetensorsHeader header;
  header.data_begin = 8 + length;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__")
      header.metadata = parse_metadata(value, where);
    else
      header.tensors.push_back(parse_tensor(name, value, header.data_begin, file_bytes, where));
  }
  std::sort(header.tensors.begin(), header.tensors.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;  // empty tensors share an offset
  });
  check_places(header, file_bytes, where);
  return header;
}

SafetensorsFile::SafetensorsFile(std::filesystem::path path)
    : path_(std::move(path)),
      map_(path_),
      header_(parse_safetensors_header({map_.data(), map_.size_bytes()}, static_cast<int64_t>(map_.size_bytes()),
                                       path_.string())) {
  for (size_t i = 0; i < header_.tensors.size(); ++i) by_name_[header_.tensors[i].name] = i;
}

const StoredTensor* SafetensorsFile::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &header_.tensors[found->second];
}

Tensor SafetensorsFile::view(const StoredTensor& stored) const {
  return {stored.dtype, stored.shape, map_.data() + stored.offset, map_.owner()};
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorEntry> entries,
                                     std::map<std::string, std::string> metadata)
    : path_(path) {
  std::sort(entries.begin(), entries.end(), lies_before);
  const std::string header = header_text(entries, metadata);
  const uint64_t length = header.size();
  int64_t offset = 8 + static_cast<int64_t>(length);
  for (const TensorEntry& entry : entries) {
    if (!places_.emplace(entry.name, Place{entry, offset, false}).second)
      throw Error("tensor " + entry.name + " is declared twice", path_.string());
    offset += needed_bytes(entry, entry.name);
  }
  total_bytes_ = offset;
  check_disk_space(path_, total_bytes_);
  file_.emplace(path_);
  file_->reserve(total_bytes_);  // a disk that others fill meanwhile is noticed now, not hours later
  unsigned char field[8];
  for (int i = 0; i < 8; ++i) field[i] = static_cast<unsigned char>(length >> (8 * i));
  file_->write_at(0, field, 8);
  file_->write_at(8, header.data(), header.size());
}

void SafetensorsWriter::write(const std::string& name, const Tensor& tensor) {
  const std::string where = path_.string() + ", tensor " + name;
  const auto found = places_.find(name);
  if (found == places_.end()) throw Error("was not declared", where);
  Place& place = found->second;
  if (place.written) throw Error("is written twice", where);
  if (tensor.dtype != place.entry.dtype || tensor.shape != place.entry.shape)
    throw Error("is " + std::string(to_string(tensor.dtype)) + " " + to_string(tensor.shape) + ", declared was " +
                    std::string(to_string(place.entry.dtype)) + " " + to_string(place.entry.shape),
                where);
  file_->write_at(place.offset, tensor.data, tensor.bytes());
  place.written = true;
}

std::vector<std::string> SafetensorsWriter::missing() const {
  std::vector<std::string> names;
  for (const auto& [name, place] : places_)
    if (!place.written) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

void SafetensorsWriter::finish(bool durable) {
  if (const std::vector<std::string> names = missing(); !names.empty())
    throw Error(std::to_string(names.size()) + " tensors were not written, the first is " + names.front(),
                path_.string());
  file_->commit(durable);
  file_.reset();
}

}  // namespace qg
