#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <stop_token>

#include "hub/hub_client.h"

namespace sluice {

// Told of bytes that have come (or, negative, are to come again), from the fetching thread.
using OnFetched = std::function<void(int64_t bytes)>;

// Fetches a file's content into `partial`, going on from what is there, through lost connections
// and busy servers, and checks it against the file's hash. On return `partial` is complete, right
// and on disk. What was there before counts as fetched. Throws Error: kDataLoss when the content
// does not have the hash (`partial` is removed then), kResourceExhausted when the disk is full,
// kUnavailable when retries are spent or `stop` is asked for (`partial` stays, to go on from).
void DownloadFile(const HubClient& client, const HubModel& model, const HubFile& file,
                  const std::filesystem::path& partial, const OnFetched& on_fetched,
                  const std::stop_token& stop);

// Whether the file at `path` has the size and hash that the hub lists.
bool HasContent(const std::filesystem::path& path, const HubFile& file);

}  // namespace sluice
