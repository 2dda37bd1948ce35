// The names seen in every open JSON object, to find one that is given twice.

#ifndef TIDEGATE_NAMES_HPP
#define TIDEGATE_NAMES_HPP

#include <cstddef>
#include <deque>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace tidegate {

// Few names are compared one by one; many go into a tree, whose worst case no client can choose (a hash table's it can).
class Names {
  public:
    void open() { levels_.push_back({all_.size(), nullptr}); }
    void close() {
        all_.resize(levels_.back().from);
        levels_.pop_back();
    }
    // False: the innermost object has it already. The text must outlive this object.
    bool add(const char* text, std::size_t size) { return insert(std::string_view(text, size)); }
    bool add_owned(const std::string& text) {
        owned_.push_back(text);
        return insert(owned_.back());
    }

  private:
    static constexpr std::size_t kFew = 24;
    struct Level {
        std::size_t from;
        std::unique_ptr<std::set<std::string_view>> many;
    };
    bool insert(std::string_view name) {
        Level& level = levels_.back();
        const std::size_t count = all_.size() - level.from;
        if (count < kFew) {
            for (std::size_t i = level.from; i < all_.size(); ++i)
                if (all_[i] == name) return false;
        } else {
            if (!level.many)
                level.many = std::make_unique<std::set<std::string_view>>(all_.begin() + level.from, all_.end());
            if (!level.many->insert(name).second) return false;
        }
        all_.push_back(name);
        return true;
    }
    std::vector<std::string_view> all_;
    std::deque<std::string> owned_;
    std::vector<Level> levels_;
};

}  // namespace tidegate

#endif
