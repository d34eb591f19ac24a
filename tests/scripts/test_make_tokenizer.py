from prompt_tuning.data.vocabulary_folders import load_vocabulary


def test_a_tokenizer_is_made_of_a_file_of_pairs(script, tmp_path):
  (tmp_path / 'train.txt').write_text('name : Mill||The Mill is a mill .\n' * 3)
  status, printed, _ = script('make_tokenizer', '--pairs', tmp_path / 'train.txt', '--output_dir',
                              tmp_path / 'out', '--size', 264)
  assert (status, printed) == (0, f'Wrote {tmp_path}/out/tokenizer.json: 264 tokens\n')
  vocabulary = load_vocabulary(tmp_path / 'out')
  assert (vocabulary.pad_id, vocabulary.eos_id) == (0, 1)
  assert len(vocabulary.encode(' Mill')) == 1, 'the word that occurs most is a token'
  assert vocabulary.decode(vocabulary.encode('Über Mill')) == 'Über Mill'


def test_a_wrong_size_and_a_file_of_another_form_are_messages(refused, tmp_path):
  (tmp_path / 'train.txt').write_text('name : Mill||The Mill .\n')
  given = ('make_tokenizer', '--output_dir', tmp_path, '--pairs')
  assert 'size=9 is too small for a tokenizer' in refused(*given, tmp_path / 'train.txt', '--size', 9)
  (tmp_path / 'meanings.txt').write_text('name : Mill\n')
  assert 'meanings.txt:1: found' in refused(*given, tmp_path / 'meanings.txt')
